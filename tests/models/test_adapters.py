"""An adapter is merged into its base: the model is the one that peft runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from checkpoints import save_fp8
from families import tiny
from moediff.config import checkpoints
from moediff.core.errors import UserError
from moediff.models import adapters, fetching, loading, parameters, suitability

peft = pytest.importorskip("peft")
TOKENS = torch.arange(40)[None]


def saved(folder: Path, family: str, settings=None) -> torch.Tensor:
    """Save a base and an adapter of it; gives the logits of both together, by peft."""
    base = tiny(family)
    base.save_pretrained(folder / "base")
    torch.manual_seed(1)
    settings = settings or peft.LoraConfig(
        r=4, target_modules="all-linear", init_lora_weights=False
    )
    adapted = peft.get_peft_model(base, settings).eval()
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
    adapted.save_pretrained(folder / "adapter")
    with torch.no_grad():
        return adapted(TOKENS).logits


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3-moe", "gpt-oss"])
def test_an_adapter_of_a_folder_gives_what_peft_gives(family: str, tmp_path: Path) -> None:
    wanted = saved(tmp_path, family)
    folder = fetching.fetch(str(tmp_path / "adapter"), None)
    loaded, base = loading.load(folder), loading.load(tmp_path / "base")
    assert type(loaded) is type(base)
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(base(TOKENS).logits, wanted, rtol=0.1)
    assert parameters.count_parameters(loaded) == parameters.count_parameters(base)
    suitability.check_causal(loaded, "made")


def test_an_adapter_is_merged_into_a_base_that_is_made_plain(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    wanted = save_fp8(tmp_path / "fp8")
    plain = tiny("llama")
    merged = loading.load(tmp_path / "adapter")
    path = tmp_path / "adapter" / checkpoints.ADAPTER_CONFIG
    settings = json.loads(path.read_text()) | {"base_model_name_or_path": "../fp8"}
    path.write_text(json.dumps(settings))
    found = loading.load(fetching.fetch(str(tmp_path / "adapter"), None))
    name = "model.layers.1.mlp.up_proj.weight"
    added = merged.state_dict()[name] - plain.state_dict()[name]
    assert added.abs().max() > 0
    torch.testing.assert_close(
        found.state_dict()[name], wanted.state_dict()[name] + added, rtol=2**-7, atol=1e-4
    )


def test_the_manifest_of_an_adapter_covers_it_and_its_base(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    folder, before = tmp_path / "adapter", loading.digest(tmp_path / "adapter")
    loading.write_manifest(
        tmp_path / "model.json", loading.load(folder), folder, str(folder), "float32", {"format": 1}
    )
    for path in (folder / checkpoints.ADAPTER_WEIGHTS, tmp_path / "base" / loading.WEIGHTS):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert loading.digest(folder) != before
        path.write_bytes(whole)
    assert loading.digest(folder) == before


def test_an_adapter_that_does_not_fit_or_cannot_be_merged_ends_in_one_line(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    folder = tmp_path / "adapter"
    settings = json.loads((folder / checkpoints.ADAPTER_CONFIG).read_text())

    def refused(match: str, **keys: object) -> None:
        path = folder / checkpoints.ADAPTER_CONFIG
        path.write_text(json.dumps(settings | keys))
        with pytest.raises(UserError, match=match) as caught:
            loading.load(fetching.fetch(str(folder), None))
        assert "\n" not in str(caught.value)

    tiny("gpt2").save_pretrained(tmp_path / "other")
    refused("cannot add", base_model_name_or_path="../other")
    refused("missing or not of its base", target_modules=["q_proj"])
    refused("cannot add", r=8)
    refused("cannot add", peft_type="MADE_UP")
    quantised = loading.load(tmp_path / "base")
    quantised.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(UserError, match="base model is quantised"):
        adapters.merged(quantised, folder)
    shutil.rmtree(folder)
    saved(tmp_path, "llama", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    settings = json.loads((folder / checkpoints.ADAPTER_CONFIG).read_text())
    refused("adds tokens to the text")
