"""A language model that its rule trains by two ranks: the files of one process, to rounding."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from moediff.core import artifact
from running import unmade
from workflow import run

MODEL = "results/models/moe/seed-0"
KEYS = ("step", "split", "domain", "name")


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [0, 1])
def test_a_model_trained_by_two_ranks_is_that_of_one(copied: Path, sharded: int) -> None:
    folder = copied / MODEL
    wanted = pl.read_parquet(folder / "history.parquet").sort(KEYS)
    weights = load_file(folder / "model.safetensors")
    described = artifact.read_json(folder / "model.json")
    target = f"{MODEL}/model.safetensors"
    unmade(copied, "train")  # checkpoints too: there is no work left otherwise
    where = ("--set-resources", "train:ranks=2", f"train:sharded={sharded}")
    found = run(copied, target, *where)
    assert found.returncode == 0, found.stderr
    assert "step 62 of 62" in (copied / "results/logs/train/moe-0.log").read_text()
    history = pl.read_parquet(folder / "history.parquet").sort(KEYS)
    assert history.select(KEYS).equals(wanted.select(KEYS))
    np.testing.assert_allclose(history["value"], wanted["value"], rtol=0, atol=1e-5)
    again = load_file(folder / "model.safetensors")
    assert again.keys() == weights.keys()
    for name, weight in weights.items():
        np.testing.assert_allclose(again[name], weight, rtol=0, atol=1e-4)
    facts = artifact.read_json(folder / "model.json")
    assert facts.keys() == described.keys()
    assert facts["parameters"] == described["parameters"]
