"""A whole file in the place of another is named, not taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moediff.activations import caching
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
