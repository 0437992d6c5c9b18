"""The section `activations`: hooks, and layers by index or by share of depth."""

import pytest

from configured import refused
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
