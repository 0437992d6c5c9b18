"""Weights of a checkpoint are safetensors of its folder, all of them digested, whatever its index names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import DENSE
from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError
from moediff.models import loading
from moediff.models.loading import digest

INDEX = "model.safetensors.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
CPU = torch.device("cpu")


@pytest.fixture
def sharded(tiny_model: Callable, tmp_path: Path) -> Path:
    """A checkpoint in two files and their index, as transformers writes them."""
    folder = tmp_path / "ck"
    model = tiny_model(DENSE)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=size * 2 // 3)
    assert sorted(path.name for path in folder.glob("*.safetensors")) == SHARDS
    return folder


def renamed(folder: Path, name: str) -> None:
    """Let the index name something else in place of the first file."""
    index = json.loads((folder / INDEX).read_text())
    parts = index["weight_map"]
    index["weight_map"] = {k: name if v == SHARDS[0] else v for k, v in parts.items()}
    (folder / INDEX).write_text(json.dumps(index))


def refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        loading.load(folder)
    assert f"'{name}'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "rm " not in str(caught.value)


def test_a_checkpoint_in_several_files_loads_and_all_of_them_are_digested(sharded: Path) -> None:
    loading.load(sharded)
    seen = {digest(sharded)}
    for name in [*SHARDS, INDEX, loading.CONFIG]:
        content = (sharded / name).read_bytes()
        (sharded / name).write_bytes(content + b" ")
        seen.add(digest(sharded))
        (sharded / name).write_bytes(content)
    assert len(seen) == 5


def test_a_checkpoint_in_one_file_has_the_digest_that_it_had(tiny_model, tmp_path: Path) -> None:
    loading.save(tiny_model(DENSE), tmp_path)
    files = [tmp_path / loading.CONFIG, tmp_path / loading.WEIGHTS]
    assert digest(tmp_path) == artifact.digest_files(files)


def test_a_manifest_of_before_still_describes_its_files(sharded: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    loading.write_manifest(path, loading.load(sharded), sharded, str(sharded), "float32", {})
    facts = artifact.read_json(path)
    files = [sharded / loading.CONFIG, *(sharded / name for name in SHARDS)]
    artifact.write_plain_json(path, facts | {"digest": artifact.digest_files(files), "format": 3})
    loading.open_manifest(path, CPU)
    (sharded / SHARDS[1]).write_bytes((sharded / SHARDS[1]).read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="describes other weights than now lie in") as caught:
        loading.open_manifest(path, CPU)
    assert f"rm '{path}'" in str(caught.value)  # which is ours; never what is the user's


def test_a_pickle_that_an_index_names_is_never_opened(sharded: Path, monkeypatch) -> None:
    def opened(*arguments: object, **named: object) -> None:
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", opened)
    for name in ("weights.bin", "weights.pt", "model.safetensors.bin"):
        shutil.copy(sharded / SHARDS[0], sharded / name)
        renamed(sharded, name)
        refused(sharded, name)
        (sharded / INDEX).write_text(
            (sharded / INDEX).read_text().replace(f'"{name}"', f'"{SHARDS[0]}"')
        )


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_packed_weights_that_nothing_says_how_to_read_are_refused(
    sharded: Path, kind: torch.dtype
) -> None:
    tensors = load_file(sharded / SHARDS[0])
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    save_file(tensors | {name: tensors[name].to(kind)}, sharded / SHARDS[0], {"format": "pt"})
    refused(sharded, name)


def test_whole_numbers_that_are_no_weights_are_let_be(sharded: Path) -> None:
    tensors = load_file(sharded / SHARDS[0])
    extra = {
        "model.position_ids": torch.arange(4),
        "model.layers.0.attn.bias": torch.ones(2, 2) > 0,
    }
    assert not set(extra) & set(tensors)
    save_file(tensors | extra, sharded / SHARDS[0], {"format": "pt"})
    index = json.loads((sharded / INDEX).read_text(encoding="utf-8"))
    index["weight_map"] |= dict.fromkeys(extra, SHARDS[0])
    (sharded / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError) as caught:  # of names, where transformers has no such part
        loading.load(sharded)
    assert "plain weights" not in str(caught.value)


@pytest.mark.parametrize("name", ["../good/model.safetensors", "sub/model.safetensors", "..", ""])
def test_a_name_that_leaves_the_folder_is_refused(sharded: Path, name: str) -> None:
    for folder in (sharded.parent / "good", sharded / "sub"):
        folder.mkdir()
        shutil.copy(sharded / SHARDS[0], folder / "model.safetensors")
    renamed(sharded, name)
    refused(sharded, name)


def test_an_absolute_name_is_refused(sharded: Path, tmp_path: Path) -> None:
    shutil.copy(sharded / SHARDS[0], tmp_path / "model.safetensors")
    renamed(sharded, str(tmp_path / "model.safetensors"))
    refused(sharded, str(tmp_path / "model.safetensors"))


def test_a_link_is_followed_and_the_digest_is_of_what_it_leads_to(
    sharded: Path, tmp_path: Path
) -> None:
    before = digest(sharded)
    (tmp_path / "else").mkdir()
    elsewhere = tmp_path / "else" / "x.safetensors"
    (sharded / SHARDS[0]).rename(elsewhere)
    (sharded / SHARDS[0]).symlink_to(elsewhere)
    loading.load(sharded)
    assert digest(sharded) == before
    elsewhere.write_bytes(elsewhere.read_bytes()[:-1] + b"!")
    assert digest(sharded) != before
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots").mkdir()
    folder = Path(shutil.copytree(sharded, cache / "snapshots" / "0123"))
    for path in list(folder.iterdir()):
        blob = cache / "blobs" / artifact.digest(path.name)
        path.rename(blob)
        path.symlink_to(f"../../blobs/{blob.name}")
    loading.load(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}', "\xff"],
)  # fmt: skip
def test_an_index_that_is_none_is_one_line(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=INDEX):
        loading.load(sharded)


def test_cut_weights_of_the_users_are_not_to_be_removed(sharded: Path) -> None:
    content = (sharded / SHARDS[0]).read_bytes()
    (sharded / SHARDS[0]).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"not whole.*copy or download") as caught:
        loading.load(sharded)
    assert not isinstance(caught.value, DamagedError)
    assert "rm " not in str(caught.value)
