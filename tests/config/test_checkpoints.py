"""What is known of a local checkpoint before any job: what it is, what it lacks, which files decide it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configured import completed
from moediff.config import checkpoints, corpus, quantised
from moediff.core.errors import ConfigError

LOADED = "corpus: {{tokenizer!: {{load: '{0}'}}}}\nmodels: {{moe!: {{load: '{0}'}}}}"


def folder_of(path: Path, **config: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({"num_hidden_layers": 8, "hidden_size": 64} | config)
    )
    (path / "model.safetensors").write_bytes(b"")
    return path


def adapter_of(path: Path, **settings: object) -> Path:
    path.mkdir()
    (path / checkpoints.ADAPTER_CONFIG).write_text(json.dumps(settings))
    (path / checkpoints.ADAPTER_WEIGHTS).write_bytes(b"")
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        completed(LOADED.format(path))
    assert str(caught.value).startswith("models.moe.load: ")
    assert "\n" not in str(caught.value)


@pytest.fixture
def packages(monkeypatch):
    """Says which modules are there."""
    return lambda *names: monkeypatch.setattr(quantised, "_importable", lambda name: name in names)


def test_a_quantised_folder_is_refused_before_any_job_where_its_package_is_missing(
    tmp_path: Path, packages
) -> None:
    packages("accelerate")
    methods = {"gptq": "optimum and gptqmodel", "awq": "gptqmodel", "torchao": "torchao"}
    for method, missing in methods.items():
        folder = folder_of(tmp_path / method, quantization_config={"quant_method": method})
        refused(folder, rf"quantised \({method}\); needs the packages? {missing}; install")
    refused(
        folder_of(tmp_path / "bits", quantization_config={"load_in_4bit": True}), "bitsandbytes"
    )
    refused(
        folder_of(tmp_path / "new", quantization_config={"quant_method": "new"}), "method new, and"
    )
    refused(folder_of(tmp_path / "eetq", quantization_config={"quant_method": "eetq"}), "code of")
    completed(
        LOADED.format(folder_of(tmp_path / "fp8", quantization_config={"quant_method": "fp8"}))
    )
    completed(LOADED.format(folder_of(tmp_path / "null", quantization_config=None)))


def test_a_folder_that_asks_for_code_of_the_hub_is_refused_before_any_job(tmp_path: Path) -> None:
    asks = {"_attn_implementation": "owner/kernel"}
    refused(folder_of(tmp_path / "top", **asks), r"_attn_implementation .*\(owner/kernel\)")
    refused(folder_of(tmp_path / "text", text_config={"num_hidden_layers": 8} | asks), "code of")


def test_an_adapter_and_a_gguf_file_are_refused_before_any_job_where_their_package_is_missing(
    tmp_path: Path, packages
) -> None:
    folder_of(tmp_path / "base")
    adapter = adapter_of(tmp_path / "adapter", base_model_name_or_path="../base")
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    packages("accelerate")
    refused(adapter, "an adapter; needs the package peft; install it")
    refused(tmp_path / "small.gguf", "a GGUF file; needs the package gguf; install it")
    packages("accelerate", "peft", "gguf")
    completed(LOADED.format(adapter))
    completed(LOADED.format(tmp_path / "small.gguf"))
    completed(LOADED.format("owner/name/small.gguf"))
    with pytest.raises(ConfigError, match="cannot be a Hub id"):
        completed(LOADED.format("owner/small.gguf/x"))
    folder_of(tmp_path / "gptq", quantization_config={"quant_method": "gptq"})
    other = adapter_of(tmp_path / "other", base_model_name_or_path=str(tmp_path / "gptq"))
    refused(other, r"its base model .*gptq: quantised \(gptq\)")


def test_the_files_of_an_adapter_are_its_own_and_its_base_s(tmp_path: Path) -> None:
    base = folder_of(tmp_path / "base")
    adapter = adapter_of(tmp_path / "adapter", base_model_name_or_path="../base")
    found = [Path(path).resolve() for path in checkpoints.checkpoint_files(str(adapter))]
    assert found == [
        adapter / checkpoints.ADAPTER_CONFIG,
        adapter / checkpoints.ADAPTER_WEIGHTS,
        base / "config.json",
        base / "model.safetensors",
    ]
    (adapter / checkpoints.ADAPTER_CONFIG).write_text('{"base_model_name_or_path": "owner/name"}')
    assert len(checkpoints.checkpoint_files(str(adapter))) == 2
    assert checkpoints.base_of(adapter) == ("owner/name", None)
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    small = str(tmp_path / "small.gguf")
    assert checkpoints.checkpoint_files(small) == corpus.tokenizer_files(small) == [small]
    assert corpus.tokenizer_files("owner/name/small.gguf") == []
    assert checkpoints.parts_of_gguf(small) == (str(tmp_path), "small.gguf")
    assert checkpoints.parts_of_gguf("owner/name/q8/a.gguf") == ("owner/name", "q8/a.gguf")
    assert checkpoints.checkpoint_files("owner/name/small.gguf") == []


@pytest.mark.parametrize("text", ["", "[", "[]", "5", "null", "[" * 100_000, '{"a": 1}'])
def test_an_adapter_s_config_that_names_no_base_is_named(text: str, tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "adapter")
    (adapter / checkpoints.ADAPTER_CONFIG).write_text(text)
    with pytest.raises(ConfigError, match=r"adapter_config\.json: names no base model"):
        completed(LOADED.format(adapter))
