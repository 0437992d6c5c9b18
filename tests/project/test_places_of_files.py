"""A whole file in the place of another is named, not taken for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from moediff.activations import caching
from moediff.config.base import matches
from moediff.config.layout import path
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.dictionaries.principal_components import Baseline
from moediff.job import of_fits


def test_the_record_of_another_dictionary_is_refused(tmp_path: Path) -> None:
    about = {"comparison": "pair", "member": "moe.0_dense.0", "recipe": "default", "seed": 0}
    place = tmp_path / path("dictionary", **about, file="metrics.json")
    artifact.write_json(place, artifact.made_by("metrics") | about)
    assert of_fits([str(place)])[0]["member"] == "moe.0_dense.0"
    other = tmp_path / path("dictionary", **about | {"seed": 1}, file="metrics.json")
    other.parent.mkdir(parents=True)
    other.write_bytes(place.read_bytes())
    with pytest.raises(UserError, match="is of another dictionary") as caught:
        of_fits([str(place), str(other)])
    assert str(caught.value).startswith(f"{other}: ")


def test_components_of_other_sources_are_refused(tmp_path: Path) -> None:
    tensors = {"vectors": torch.eye(2), "variances": torch.ones(2), "scale": torch.ones(2)}
    file = tmp_path / "components.safetensors"
    artifact.write_tensors(file, tensors, artifact.made_by("baselines", sources=["moe.0"]))
    Baseline.load(file, ["moe.0"])
    with pytest.raises(UserError, match=r"components of moe\.0, not of dense\.0"):
        Baseline.load(file, ["dense.0"])


def test_points_of_another_model_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "points.json"
    artifact.write_json(file, artifact.made_by("activations", model="abc") | {"points": {"a": {}}})
    assert caching.read_points(file, "abc") == {"a": {}}
    with pytest.raises(UserError, match="measured on another model"):
        caching.read_points(file, "def")


def test_a_glob_below_links_that_lead_up_again_ends_and_follows_the_others(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own/a.txt", "own/deep/b.txt", "far/c.txt", "own/.hidden/d.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    wanted = ["own/a.txt", "own/deep/b.txt"]
    assert matches("own/**/*.txt") == wanted
    os.symlink(".", "own/self")
    os.symlink("..", "own/deep/up")
    os.symlink("../far", "own/link")
    began = time.monotonic()
    assert matches("own/**/*.txt") == [*wanted, "own/link/c.txt"]
    assert "own/deep/b.txt" in matches("**/b.txt")
    assert "own/deep/b.txt" in matches("own/**")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "pattern", ["**/*.txt", "own/**", "**", "*/**/*.txt", "./own/**/*.txt", "**.txt"]
)
def test_a_glob_without_links_matches_what_the_standard_library_does(
    tmp_path: Path, monkeypatch, pattern: str
) -> None:
    import glob

    monkeypatch.chdir(tmp_path)
    for name in ("own/a.txt", "own/deep/b.txt", "own/.hidden/d.txt", "c.txt", "e[1]/f.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert matches(pattern) == sorted(glob.glob(pattern, recursive=True))
