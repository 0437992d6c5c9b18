"""Quantised checkpoints are read as the weights that they stand for, or end in one line that says by what."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, LlamaForCausalLM, TorchAoConfig
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from checkpoints import change_config, save_fp8, save_mxfp4
from families import tiny
from moediff.config import quantised
from moediff.core.errors import UserError
from moediff.models import fetching, loading, parameters, suitability

TOKENS = torch.arange(40)[None]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits.float()


def test_the_table_names_every_method_of_transformers() -> None:
    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}
    assert known == quantised.METHODS.keys() | quantised._REFUSED.keys()


@pytest.mark.parametrize("save", [save_fp8, save_mxfp4])
def test_weights_that_can_be_made_plain_are_those_that_the_file_stands_for(
    save, tmp_path: Path
) -> None:
    wanted = save(tmp_path)
    loaded = loading.load(fetching.fetch(str(tmp_path), None))
    for name, value in wanted.state_dict().items():
        found = loaded.state_dict()[name]
        torch.testing.assert_close(found, value, rtol=2**-8, atol=0, msg=name)  # by way of bfloat16
    torch.testing.assert_close(logits(loaded), logits(wanted), rtol=0.05, atol=0.05)
    counted = parameters.count_parameters(loading.plain(loaded))
    assert counted == parameters.count_parameters(wanted)
    suitability.check_causal(loaded, "made")


@pytest.mark.parametrize("method", sorted(quantised.METHODS.keys() | quantised._REFUSED.keys()))
def test_a_method_whose_package_is_missing_ends_in_a_line_that_names_it(
    method: str, tmp_path: Path, monkeypatch
) -> None:
    tiny("llama").save_pretrained(tmp_path)
    change_config(tmp_path, quantization_config={"quant_method": method, "bits": 4})
    monkeypatch.setattr(quantised, "_importable", lambda module: False)
    packages = quantised.METHODS.get(method, ())
    if not packages and method in quantised.METHODS:
        assert quantised.fault({"quantization_config": {"quant_method": method}}) is None
        return
    with pytest.raises(UserError, match=method) as caught:
        fetching.fetch(str(tmp_path), None)
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in packages)


@pytest.mark.parametrize(
    "settings",
    [{"quant_method": "made-up"}, {"bits": 4}, {"quant_method": ["gptq"]}, "gptq", {}, 4],
)
@pytest.mark.parametrize("place", ["top", "text"])
def test_a_method_that_transformers_does_not_know_is_never_read_as_plain(
    settings, place: str, tmp_path: Path
) -> None:
    tiny("llama").save_pretrained(tmp_path)
    named = {"quantization_config": settings}
    change_config(tmp_path, **(named if place == "top" else {"text_config": named}))
    with pytest.raises(UserError, match="transformers reads none of that name") as caught:
        loading.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_a_library_says_of_a_file_it_cannot_read_is_one_line(
    tmp_path: Path, monkeypatch
) -> None:
    tiny("llama").save_pretrained(tmp_path)
    change_config(
        tmp_path, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32}
    )
    monkeypatch.setattr(quantised, "_importable", lambda module: True)  # there, and of no use
    with pytest.raises(
        UserError, match=r"cannot load.*(ImportError|ModuleNotFoundError).*optimum"
    ) as caught:
        loading.load(tmp_path)
    assert "\n" not in str(caught.value)


# --- by packages that are not among the dependencies -----------------------------------------------


def made(folder: Path, settings) -> LlamaForCausalLM:
    """Quantise a tiny model with a package, save it, and give it as the package has it."""
    tiny("llama", hidden_size=64, intermediate_size=128).save_pretrained(folder / "plain")
    model = LlamaForCausalLM.from_pretrained(
        folder / "plain", quantization_config=settings, dtype=torch.float32
    )
    model.save_pretrained(folder / "quantised")
    return model


def check_made(folder: Path, wanted: LlamaForCausalLM) -> None:
    loaded = loading.load(fetching.fetch(str(folder / "quantised"), None))
    torch.testing.assert_close(logits(loaded), logits(wanted), rtol=1e-5, atol=1e-5)
    plain = loading.load(folder / "plain")
    assert not torch.allclose(logits(plain), logits(wanted), rtol=1e-4)  # it is quantised
    counted = parameters.count_parameters(loading.plain(loaded))
    assert counted == parameters.count_parameters(plain)
    suitability.check_causal(loaded, "made")


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_is_read_as_the_package_runs_it(bits: int, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    check_made(tmp_path, made(tmp_path, BitsAndBytesConfig(**{f"load_in_{bits}bit": True})))


def test_torchao_is_read_as_the_package_runs_it(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    check_made(tmp_path, made(tmp_path, TorchAoConfig(quantization.Int8WeightOnlyConfig())))


def test_compressed_tensors_are_read_as_the_weights_that_they_stand_for(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    model = tiny("llama")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_proj" in name:
                scale = parameter.abs().amax(1, keepdim=True) / 127
                weights[name] = torch.round(parameter / scale).to(torch.int8)
                weights[f"{name}_scale"] = scale
                parameter.copy_(weights[name] * scale)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    whole = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "channel",
        "dynamic": False,
    }
    group = {"format": "int-quantized", "targets": ["Linear"], "weights": whole}
    change_config(
        tmp_path,
        quantization_config={
            "quant_method": "compressed-tensors", "format": "int-quantized",
            "quantization_status": "compressed", "ignore": ["lm_head"],
            "config_groups": {"group_0": group},
        },
    )  # fmt: skip
    loaded = loading.load(fetching.fetch(str(tmp_path), None))
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)
