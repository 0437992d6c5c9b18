"""Folders for the Hub, and names of any layout: written, read back, uploaded, exported by the workflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from exchanged import FACTS, PAIR, activations, assert_same_dictionary, code, made
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.dictionaries.normalising import Rms, Whitened
from moediff.exchange import crosscoders, hub, saelens
from workflow import TINY, snakemake


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    made([12, 10], tied=8).save(tmp_path / "file.safetensors", PAIR)
    row = {"source": "pooled", "mode": "threshold", "fve": 0.91234, "l0": 6.04, "rows": 1000,
           "definition": "one minus a ratio"}  # fmt: skip
    artifact.write_json(tmp_path / "metrics.json", {"fve": [row]})
    hub.save_folder(tmp_path / "file.safetensors", tmp_path / "folder", tmp_path / "metrics.json")
    return tmp_path / "folder"


def test_a_folder_says_what_it_holds_and_is_read_back(hub_folder: Path) -> None:
    dictionary, metadata = hub.load_pretrained(hub_folder)
    assert metadata["recipe"] == PAIR["recipe"]
    assert_same_dictionary(made([12, 10], tied=8), dictionary)
    text = (hub_folder / hub.CARD).read_text()
    for said in ("# Crosscoder of moe.0 and dense.0", "48 features", "k = 6",
                 "| dense.0 | 10 | resid_post.3 |", "| pooled | threshold | 0.9123 | 6.0 |"):  # fmt: skip
        assert said in text
    example = text.split("```python\n")[1].split("```")[0]
    sources = activations(dictionary)
    names = {"activations": sources}
    exec(example.replace('"this folder, or its Hub id"', repr(str(hub_folder))), names)
    wanted = code(dictionary, sources).guess
    torch.testing.assert_close(torch.cat(names["guess"], dim=1), wanted)
    assert json.loads((hub_folder / hub.CONFIG).read_text())["shape"]["widths"] == [12, 10]


def test_a_card_without_numbers_and_facts(tmp_path: Path) -> None:
    made([16]).save(tmp_path / "file.safetensors", {"format": artifact.FORMAT})
    hub.save_folder(tmp_path / "file.safetensors", tmp_path / "folder")
    text = (tmp_path / "folder" / hub.CARD).read_text()
    assert "# Sparse autoencoder of source-0" in text
    assert "FVE" not in text


@pytest.mark.parametrize("normaliser", [Rms, Whitened])
def test_what_a_card_says_of_normalised_rows_gives_the_rows_back(
    tmp_path: Path, normaliser
) -> None:
    made([12, 12], normaliser=normaliser([12, 12])).save(tmp_path / "own.safetensors", PAIR)
    hub.save_folder(tmp_path / "own.safetensors", tmp_path / "hub")
    card = (tmp_path / "hub" / hub.CARD).read_text(encoding="utf-8")
    (line,) = [line for line in card.splitlines() if line.startswith("guess = ")]
    dictionary, facts = hub.load_pretrained(tmp_path / "hub")
    assert facts["normalise"] == normaliser.name
    sources = [torch.randn(5, 12), torch.randn(5, 12)]
    known = {
        "dictionary": dictionary,
        "activations": sources,
        "rows": dictionary.standardise(sources),
    }
    exec(line, known)
    assert [part.shape for part in known["guess"]] == [(5, 12), (5, 12)]


def test_a_name_that_is_no_folder_is_asked_of_the_hub(hub_folder: Path, monkeypatch) -> None:
    asked = []

    def download(name: str, **options) -> str:
        asked.append((name, options))
        if name == "some/absent":
            raise ConnectionError("no route\nto the Hub")
        return str(hub_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    hub.load_pretrained(hub_folder)
    assert not asked
    _, metadata = hub.load_pretrained("some/name", revision="abc")
    assert metadata["sources"] == PAIR["sources"]
    ((name, options),) = asked
    assert (name, options["revision"]) == ("some/name", "abc")
    assert not any(
        pattern.endswith((".pt", ".bin", ".py")) for pattern in options["allow_patterns"]
    )
    with pytest.raises(UserError, match=r"'some/absent'.*ConnectionError: no route\)"):
        hub.load_pretrained("some/absent")
    with pytest.raises(UserError, match="holds none of dictionary"):
        hub.load_pretrained(hub_folder.parent / "folder" / "..")


@pytest.mark.parametrize("layout", ["saelens", "crosscoder", "hub"])
def test_a_cut_file_ends_in_one_line(tmp_path: Path, layout: str) -> None:
    if layout == "saelens":
        saelens.save(made([16]), tmp_path, FACTS)
    elif layout == "crosscoder":
        crosscoders.save(made([12, 12]), tmp_path, PAIR)
    else:
        made([16]).save(tmp_path / hub.WEIGHTS, FACTS)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{path.name}: not (a )?whole") as error:
        hub.load_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    for config in tmp_path.glob("*.json"):
        config.write_text("{")
        with pytest.raises(UserError, match=rf"{config.name}: cannot be read as a config"):
            hub.load_pretrained(tmp_path)


class Api:
    """The Hub, as far as `push` uses it."""

    def __init__(self, public: bool = False) -> None:
        self.public, self.calls = public, []

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create", repo_id, private, exist_ok))

    def repo_info(self, repo_id: str):
        return type("Info", (), {"private": not self.public})

    def upload_folder(self, repo_id: str, folder_path: Path, allow_patterns: list[str]) -> str:
        if repo_id == "some/refused":
            raise PermissionError("401")
        self.calls.append(("upload", repo_id, sorted(allow_patterns)))
        return "https://hub/commit"


def test_push_uploads_three_files_and_nothing_to_a_public_place(
    hub_folder: Path, monkeypatch
) -> None:
    api = Api()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    assert hub.push(hub_folder, "some/name") == "https://hub/commit"
    assert api.calls == [
        ("create", "some/name", True, True),
        ("upload", "some/name", sorted(path.name for path in hub_folder.iterdir())),
    ]
    with pytest.raises(UserError, match=r"'some/refused'.*PermissionError: 401"):
        hub.push(hub_folder, "some/refused")
    api.public, api.calls = True, []
    with pytest.raises(UserError, match="is public on the Hub"):
        hub.push(hub_folder, "some/name")
    assert [call[0] for call in api.calls] == ["create"]
    hub.push(hub_folder, "some/name", private=False)
    assert api.calls[-1][0] == "upload"
    api.calls = []
    (hub_folder / hub.WEIGHTS).write_bytes(b"cut")
    with pytest.raises(UserError, match="not whole"):
        hub.push(hub_folder, "some/name")
    assert not api.calls


@pytest.mark.slow
def test_naming_a_file_exports_a_dictionary(tmp_path: Path) -> None:
    """The rules themselves; the dictionaries stand there already."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(TINY | {"models": TINY["models"]}))
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.txt").write_text("A tale. " * 50)
    sae, pair = "moe/moe.0/default/seed-0", "moe-dense/moe.0_dense.0/default/seed-0"
    for place, widths, facts in ((sae, [12], FACTS), (pair, [12, 12], PAIR)):
        folder = tmp_path / "results/dictionaries" / place
        made(widths).save(folder / hub.WEIGHTS, facts)
        artifact.write_json(folder / "metrics.json", {"fve": []})

    def export(*targets: str):
        rules = [f"export_{layout}" for layout in ("saelens", "crosscoder", "hub")]
        paths = [f"results/exports/{target}" for target in targets]
        files = ["--configfile", str(tmp_path / "config.yaml")]
        return snakemake(tmp_path, *paths, *files, "--allowed-rules", *rules)

    found = export(f"saelens/{sae}/sae_weights.safetensors", f"crosscoder/{pair}/model.safetensors",
                   f"hub/{pair}/dictionary.safetensors")  # fmt: skip
    assert found.returncode == 0, found.stderr
    for place, dictionary in (
        (f"saelens/{sae}", made([12])),
        (f"crosscoder/{pair}", made([12, 12])),
        (f"hub/{pair}", made([12, 12])),
    ):
        read, _ = hub.load_pretrained(tmp_path / "results/exports" / place)
        assert_same_dictionary(dictionary, read)
    found = export(f"saelens/{pair}/cfg.json")
    assert found.returncode != 0
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("config error: ")]
    assert "SAELens holds one source" in line
