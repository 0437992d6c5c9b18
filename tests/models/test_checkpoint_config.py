"""What config.json asks for is looked at before transformers acts on it; weights are of what it describes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import change_config
from families import tiny
from moediff.core.errors import UserError
from moediff.models import loading, suitability
from moediff.models.families import blocks

KERNEL = "kernels-community/made-up"


def refused(folder: Path, match: str) -> None:
    """Loading ends in one line, soon."""
    begun = time.monotonic()
    with pytest.raises(UserError, match=match) as caught:
        suitability.check_causal(loading.load(folder), "made")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "keys",
    [
        {"_attn_implementation": KERNEL},
        {"attn_implementation": f"{KERNEL}@main:forward"},
        {"_attn_implementation": f"paged|{KERNEL}"},
        {"_attn_implementation": {"": "sdpa", "vision_config": KERNEL}},
        {"_attn_implementation_internal": KERNEL},
        {"experts_implementation": KERNEL},
        {"text_config": {"_attn_implementation": KERNEL}},
        {"parts": [{"_experts_implementation": KERNEL}]},
    ],
)
def test_a_kernel_of_the_hub_is_refused_and_never_fetched(
    keys: dict, tmp_path: Path, monkeypatch
) -> None:
    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetched)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    tiny("qwen3-moe").save_pretrained(tmp_path)
    change_config(tmp_path, **keys)
    refused(tmp_path, "code of the Hub")


@pytest.mark.parametrize(
    "keys",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "made-up"},
        {"_experts_implementation": "deepgemm"},
    ],
)
def test_another_way_to_compute_is_not_taken_from_a_file(keys: dict, tmp_path: Path) -> None:
    model = tiny("qwen3-moe")
    model.save_pretrained(tmp_path)
    change_config(tmp_path, **keys)
    loaded, tokens = loading.load(tmp_path), torch.arange(20)[None]
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)


NUMBERS = [
    ("num_attention_heads", value) for value in (0, -1, None, "2", 2.5, True, [2], float("nan"))
] + [
    ("num_hidden_layers", 0), ("num_hidden_layers", -1), ("num_hidden_layers", None),
    ("num_hidden_layers", "2"), ("num_hidden_layers", float("nan")), ("hidden_size", 0),
    ("hidden_size", None), ("hidden_size", "32"), ("vocab_size", 0), ("vocab_size", None),
    ("num_key_value_heads", 0), ("num_key_value_heads", "2"), ("num_experts", -1),
    ("num_experts", "8"), ("num_experts_per_tok", "2"), ("max_position_embeddings", "128"),
    ("num_local_experts", "8"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), NUMBERS)
def test_a_size_that_is_no_number_of_at_least_one_is_named(key: str, value, tmp_path: Path) -> None:
    tiny("qwen3-moe").save_pretrained(tmp_path)
    change_config(tmp_path, **{key: value})
    refused(tmp_path, f"config.json: {key} is ")


# Layers apart, what is too large must not be made up in memory; all else is transformers' own word.
HUGE = [
    ("num_hidden_layers", 10**9), ("num_experts", 10**9), ("vocab_size", 10**12),
    ("hidden_size", 10**9), ("moe_intermediate_size", 10**9), ("num_attention_heads", 10**9),
    ("num_key_value_heads", 10**9), ("head_dim", 10**12), ("num_hidden_layers", 10**30),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), HUGE)
def test_a_size_that_the_weights_do_not_have_ends_soon_in_one_line(
    key: str, value: int, tmp_path: Path
) -> None:
    tiny("qwen3-moe").save_pretrained(tmp_path)
    change_config(tmp_path, **{key: value})
    refused(tmp_path, str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rms_norm_eps", None), ("rms_norm_eps", "x"), ("hidden_act", None), ("hidden_act", 5),
        ("rope_parameters", "x"), ("rope_parameters", {"rope_type": "made-up"}), ("head_dim", 3),
        ("model_type", "made-up"), ("model_type", None), ("model_type", 5), ("architectures", 5),
        ("model_type", "t5"), ("num_experts_per_tok", 9), ("layer_types", ["x"]), ("dtype", "x"),
        ("attention_dropout", "x"), ("mlp_only_layers", 5), ("transformers_weights", "other.bin"),
        ("transformers_weights", "../a/model.safetensors"), ("auto_map", {"AutoConfig": "x.Y"}),
    ],
)  # fmt: skip
def test_any_other_value_loads_the_same_model_or_ends_in_one_line(
    key: str, value, tmp_path: Path
) -> None:
    model = tiny("qwen3-moe")
    model.save_pretrained(tmp_path)
    change_config(tmp_path, **{key: value})
    said = None
    try:
        loaded = loading.load(tmp_path)
        suitability.check_causal(loaded, "made")
    except UserError as error:
        said = str(error)
    if said is None:
        assert all(torch.equal(loaded.state_dict()[n], w) for n, w in model.state_dict().items())
    else:
        assert "\n" not in said
        assert str(tmp_path) in said or "made" in said


@pytest.mark.parametrize("text", ["", "[]", "5", "{", '{"a": NaN', "\udcff", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_named(text: str, tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text, errors="surrogateescape")
    refused(tmp_path, r"config\.json: not a JSON object")


@pytest.mark.parametrize("family", ["llama", "qwen3-moe", "mixtral", "gpt2"])
def test_fewer_layers_than_the_weights_have_are_refused(family: str, tmp_path: Path) -> None:
    tiny(family).save_pretrained(tmp_path)
    change_config(
        tmp_path, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 2}, layer_types=None
    )
    refused(tmp_path, "are not of the")


def extended(folder: Path, *names: str) -> Path:
    """A saved checkpoint with more tensors in its file."""
    weights = load_file(folder / "model.safetensors")
    weights |= {name: torch.ones(2, 2) for name in names}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_weights_that_are_not_of_the_model_are_refused(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    refused(extended(tmp_path, "v_head.weight"), r"1 of its weights .*v_head\.weight")


@pytest.mark.parametrize(
    ("family", "keys", "names"),
    [
        ("llama", {}, ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
        ("gpt2", {}, ["h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
        ("deepseek-v3", {}, [f"model.layers.3.{n}.weight" for n in ("eh_proj", "mlp.gate")]),
    ],
)
def test_constants_of_old_files_and_layers_that_only_predict_further_tokens_are_no_fault(
    family: str, keys: dict, names: list[str], tmp_path: Path
) -> None:
    tiny(family).save_pretrained(tmp_path)
    change_config(extended(tmp_path, *names), **keys)
    assert len(blocks(loading.load(tmp_path))) == 3
