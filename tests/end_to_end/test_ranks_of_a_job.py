"""Jobs that several ranks do through their rule: the files of one process, to rounding."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from moediff.core import artifact
from running import unmade
from workflow import DICTIONARY, run

MODEL = "results/models/dense/seed-0"  # an MoE's tokens near a tie change experts with the rounding
KEYS = ("step", "split", "domain", "name")


def alike(folder: Path, name: str, weights: dict[str, np.ndarray]) -> None:
    again = load_file(folder / name)
    assert again.keys() == weights.keys()
    for key, weight in weights.items():
        np.testing.assert_allclose(again[key], weight, rtol=0, atol=1e-4, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [0, 1])
def test_a_model_trained_by_two_ranks_is_that_of_one(copied: Path, sharded: int) -> None:
    folder = copied / MODEL
    wanted = pl.read_parquet(folder / "history.parquet").sort(KEYS)
    weights = load_file(folder / "model.safetensors")
    described = artifact.read_json(folder / "model.json")
    target = f"{MODEL}/model.safetensors"
    for made in (folder, copied / "results/state"):  # with checkpoints there is no work left
        shutil.rmtree(made)
    where = ("--set-resources", "train:ranks=2", f"train:sharded={sharded}")
    found = run(copied, target, *where)
    assert found.returncode == 0, found.stderr
    assert "step 62 of 62" in (copied / "results/logs/train/dense-0.log").read_text()
    history = pl.read_parquet(folder / "history.parquet").sort(KEYS)
    assert history.select(KEYS).equals(wanted.select(KEYS))
    np.testing.assert_allclose(history["value"], wanted["value"], rtol=0, atol=1e-5)
    alike(folder, "model.safetensors", weights)
    facts = artifact.read_json(folder / "model.json")
    assert facts.keys() == described.keys()
    assert facts["parameters"] == described["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("split", [0, 1])
def test_a_dictionary_fitted_by_two_ranks_is_that_of_one(copied: Path, split: int) -> None:
    folder = copied / "results" / DICTIONARY
    wanted = pl.read_parquet(folder / "history.parquet")
    names = ("dictionary.safetensors", "early.safetensors")
    weights = {name: load_file(folder / name) for name in names}
    unmade(copied, "fit")
    target = f"results/{DICTIONARY}/dictionary.safetensors"
    found = run(copied, target, "--set-resources", "fit:ranks=2", f"fit:split={split}")
    assert found.returncode == 0, found.stderr
    assert (
        "fve 0." in (copied / "results/logs/fit/moe-dense/moe.0_dense.0/default-0.log").read_text()
    )
    history = pl.read_parquet(folder / "history.parquet")
    np.testing.assert_allclose(history["fve"], wanted["fve"], rtol=0, atol=1e-5)
    for name in names:
        alike(folder, name, weights[name])
