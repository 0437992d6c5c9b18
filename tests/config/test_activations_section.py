"""The section `activations`: hooks, and layers by index or by share of depth."""

import pytest

from configured import completed, refused
from conftest import DROP
from moediff.config import activations
from moediff.core.errors import ConfigError


@pytest.mark.parametrize(
    ("layer", "layers", "index"),
    [(0.5, 5, 2), (0.5, 7, 3), (0.5, 4, 2), (0.5, 1, 0), (0.0, 5, 0), (1.0, 5, 4), (0.99, 5, 4),
     (1, 5, 1), (0, 5, 0), (4, 5, 4)],
)  # fmt: skip
def test_layer_by_index_or_by_share_of_depth(layer: float, layers: int, index: int) -> None:
    assert activations.resolve_layer(layer, layers, "dense") == index


@pytest.mark.parametrize(("layer", "layers"), [(5, 5), (1, 1), (100, 5), (1.5, 5), (2.0, 5)])
def test_layer_that_a_model_lacks(layer: float, layers: int) -> None:
    with pytest.raises(ConfigError, match=f"layer: {layer} does not exist in model 'dense'"):
        activations.resolve_layer(layer, layers, "dense")


BAD = {
    "drop": ("activations: {drop: {bos: true}}", ["activations.drop", "'bos'"]),
    "massive norm as text": (
        "activations: {drop: {massive_norm: '10'}}",
        ["activations.drop.massive_norm", "'10' is text, not a number", "write 10"],
    ),
    "massive norm as a word": (
        "activations: {drop: {massive_norm: never}}",
        ["massive_norm", "auto"],
    ),
    "massive norm of no size": ("activations: {drop: {massive_norm: 1}}", ["massive_norm", "1"]),
    "layer index": ("activations: {layer: 5}", ["activations.layer", "5", "'dense'", "0 to 4"]),
    "layer share": ("activations: {layer: 1.5}", ["activations.layer", "1.5", "'dense'"]),
    "layer of one model": (
        "{activations: {layer: 3}, models: {flat: {like: dense, train: {layers: 2}}}}",
        ["activations.layer", "'flat'", "2 layers"],
    ),
    "one of several layers": (
        "activations: {layer: [0, 7]}",
        ["activations.layer", "7", "'dense'"],
    ),
    "no layer": ("activations: {layer: []}", ["activations.layer", "[]"]),
    "hook": ("activations: {hook: resid}", ["activations.hook", "'resid'", "resid_post"]),
    "one of several hooks": (
        "activations: {hook: [resid_post, resid]}",
        ["activations.hook.1", "'resid'", "attn_out"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_hook_point_is_refused_in_one_line_that_names_the_place(case: str) -> None:
    refused(*BAD[case])


@pytest.mark.parametrize(
    ("model", "drop", "wanted"),
    [
        ("base", {}, 10), ("base", {"massive_norm": "auto"}, 10), ("base", {"massive_norm": None}, None),
        ("base", {"massive_norm": 50}, 50), ("dense", {}, None), ("dense", {"massive_norm": 50}, 50),
    ],
)  # fmt: skip
def test_massive_rows_of_loaded_models_alone_are_left_out_by_default(model, drop, wanted) -> None:
    found = completed(
        {"models": {"base": {"load": "x", "tokenizer": "own"}}, "activations": {"drop": drop}}
    )
    assert activations.dropped(found, model) == DROP | {"massive_norm": wanted}
