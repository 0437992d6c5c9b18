"""Of the Hub the weights are fetched once; what a folder, an adapter or a GGUF file lacks is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from families import tiny
from moediff.config import checkpoints, quantised
from moediff.core.errors import UserError
from moediff.models import fetching, loading

INDEX = "model.safetensors.index.json"


def shards(count: int, stem: str = "model") -> list[str]:
    return [f"{stem}-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]


SMALL = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
# What lies in some repositories of the Hub -> the weights of it that transformers reads.
REPOSITORIES = {
    "gpt-oss-20b": (
        [".gitattributes", "LICENSE", "README.md", "USAGE_POLICY", "chat_template.jinja", *SMALL,
         "metal/model.bin", *shards(3, "model").copy(), INDEX, "original/config.json",
         "original/dtypes.json", "original/model.safetensors", "special_tokens_map.json"],
        shards(3),
    ),
    "Mistral-7B-v0.3": (
        [*SMALL, "consolidated.safetensors", *shards(3), INDEX, "params.json", "tokenizer.model",
         "tokenizer.model.v3"],
        shards(3),
    ),
    "Mixtral-8x7B": (
        [*SMALL, *shards(19), INDEX, *[f"consolidated.{n:02d}.pt" for n in range(8)]],
        shards(19),
    ),
    "Mixtral-8x22B, converted": (
        [*SMALL, *shards(59), INDEX, *shards(59, "consolidated"), "consolidated.safetensors.index.json"],
        shards(59),
    ),
    "Llama-3.1-8B": (
        [*SMALL, *shards(4), INDEX, "original/consolidated.00.pth", "original/params.json",
         "original/tokenizer.model"],
        shards(4),
    ),
    "SmolLM2-135M": (
        [*SMALL, "model.safetensors", "merges.txt", "vocab.json", "onnx/model.onnx",
         "onnx/model_fp16.onnx", "runs/events", "onnx/config.json"],
        ["model.safetensors"],
    ),
    "an adapter": ([*SMALL[2:], "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"],
                   ["adapter_model.safetensors"]),
}  # fmt: skip


class Hub:
    """A Hub of one repository; `sent` is what was fetched of it, in order."""

    def __init__(self, files: list[str], weights: list[str], folder: Path) -> None:
        self.files, self.weights, self.folder = files, weights, folder / "0123abcd"
        self.sent: list[str] = []
        self.revisions: list[str | None] = []

    def snapshot_download(
        self, name, revision=None, allow_patterns=None, ignore_patterns=None, local_files_only=False
    ) -> str:
        self.revisions.append(revision)
        wanted = filter_repo_objects(
            self.files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        for file in wanted:
            if not local_files_only and not (self.folder / file).exists():
                self.sent.append(file)
                self._write(self.folder / file)
        return str(self.folder)

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == INDEX:
            names = {f"w{n}": file for n, file in enumerate(self.weights)}
            path.write_text(json.dumps({"weight_map": names | {"again": self.weights[0]}}))
        elif path.name == checkpoints.ADAPTER_CONFIG:
            path.write_text(
                json.dumps({"base_model_name_or_path": str(self.folder.parent / "base")})
            )
        elif path.suffix == ".safetensors":
            save_file({"w": torch.ones(1)}, path)
        else:
            path.write_text("{}")


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_weights_of_the_index_are_fetched_once_and_none_of_a_folder(
    name: str, tmp_path: Path, monkeypatch
) -> None:
    hub = Hub(*REPOSITORIES[name], tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(quantised, "_importable", lambda module: True)
    tiny("llama").save_pretrained(tmp_path / "base")
    assert fetching.fetch("owner/name", "main") == hub.folder
    heavy = [file for file in hub.sent if Path(file).suffix not in (".json", ".txt")]
    assert heavy == sorted(hub.weights)
    assert not any("/" in file for file in hub.sent)
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(hub.sent)
    assert hub.revisions == ["main", "0123abcd"]  # weights of the commit that the index is of
    if name == "an adapter":
        hub.sent.clear()
        loading.digest(hub.folder)  # and later stages fetch nothing
        assert not hub.sent


def test_a_quantised_repository_is_refused_once_its_config_is_there(
    tmp_path: Path, monkeypatch
) -> None:
    hub = Hub(["config.json", "model.safetensors"], ["model.safetensors"], tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(quantised, "_importable", lambda module: False)
    hub.folder.mkdir()
    settings = {"quantization_config": {"quant_method": "awq"}}
    (hub.folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"owner/name.*awq.*gptqmodel"):
        fetching.fetch("owner/name", None)
    assert not hub.sent  # no weights


def test_a_gguf_file_of_the_hub_is_fetched_alone(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def download(repository: str, file: str, revision: str | None, local_files_only: bool) -> str:
        assert not local_files_only
        asked.append((repository, file, revision))
        (tmp_path / file).write_bytes(b"x")
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(quantised, "_importable", lambda module: True)
    assert fetching.fetch("owner/name/small.gguf", "abc") == tmp_path / "small.gguf"
    assert asked == [("owner/name", "small.gguf", "abc")]
    with pytest.raises(UserError, match="no such"):
        fetching.fetch("small.gguf", None)


def adapter(folder: Path, **settings: object) -> Path:
    folder.mkdir()
    (folder / checkpoints.ADAPTER_CONFIG).write_text(json.dumps(settings))
    save_file({"w": torch.ones(1)}, folder / checkpoints.ADAPTER_WEIGHTS)
    return folder


def refused(folder: Path | str, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        fetching.fetch(str(folder), None)
    assert "\n" not in str(caught.value)


def test_what_an_adapter_lacks_is_one_line_that_names_it(tmp_path: Path, monkeypatch) -> None:
    base = tmp_path / "base"
    tiny("llama").save_pretrained(base)
    whole = adapter(tmp_path / "whole", base_model_name_or_path="../base", peft_type="LORA")
    monkeypatch.setattr(quantised, "_importable", lambda module: module != "peft")
    refused(whole, "an adapter; needs the package peft")
    monkeypatch.setattr(quantised, "_importable", lambda module: True)
    fetching.fetch(str(whole), None)
    refused(adapter(tmp_path / "nameless", peft_type="LORA"), "names no base model")
    refused(adapter(tmp_path / "null", base_model_name_or_path=None), "names no base model")
    refused(adapter(tmp_path / "own", base_model_name_or_path="../whole"), "is an adapter itself")
    refused(adapter(tmp_path / "gone", base_model_name_or_path="/no/such"), "/no/such")
    pickled = adapter(tmp_path / "pickled", base_model_name_or_path="../base")
    (pickled / checkpoints.ADAPTER_WEIGHTS).rename(pickled / "adapter_model.bin")
    refused(pickled, r"without adapter_model\.safetensors")
    tiny("llama").save_pretrained(whole)  # transformers would leave the adapter out without peft
    refused(whole, "both an adapter and the weights of a whole model")


def test_a_gguf_file_without_its_package_is_one_line(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(quantised, "_importable", lambda module: module != "gguf")
    refused(tmp_path / "small.gguf", "a GGUF file; needs the package gguf")
