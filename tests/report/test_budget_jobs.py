"""Jobs, memory, disk and hours by profile, by hand: of a billion tokens, of which none is made."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest

from conftest import PRESETS, SCHEMA
from moediff.config import profiles, resources
from moediff.config.complete import complete
from moediff.report.budget import clock, jobs, rates_text, table
from workflow import ROOT

PLACES = {
    "machine": {"jobs": 2, "gpu": None}, "one gpu": {"jobs": 2, "gpu": 1},
    "cluster": {"jobs": 200, "gpu": None},
}  # fmt: skip
RATES = jobs.Rates(documents=1e6, packing=1e5, ngrams=2e5)
BILLION = 10**9
WHOLE = {
    "corpus": {
        "domains": {"a": {"source": "tales"}, "b": {"source": "stdlib", "megabytes": 5000}},
        "tokens": {"train": BILLION, "fit": BILLION // 4, "validation": BILLION // 100},
        "tokenizer": {"train": 1024},
        "shard_tokens": 1_000_192,  # 3907 sequences of 256
    },
    "models": {
        "dense": {"train": {"d_model": 64, "layers": 2, "heads": 2, "ffn": 128}},
        "moe": {"like": "dense", "train": {"ffn": 64, "experts": 4, "top_k": 2}, "seeds": [0]},
    },
    "training": {"peak_lr": [0.001, 0.002], "seeds": [0, 1]},
    "recipes": {"default": {"features": 256, "k": 8}},
    "comparisons": {"both": {"each": ["moe", "dense"], "seeds": [0]}, "one": {"each": ["moe"], "seeds": [0]}},
}  # fmt: skip


def config(**more: object) -> dict:
    return complete(deepcopy(WHOLE) | more, SCHEMA, PRESETS)


def rows(stages: list[str], hours: float | None = 10.0) -> list[dict]:
    """Rows of an estimate, an amount of each."""
    return [{"stage": stage, "hours": hours, "gigabytes": 3.0} for stage in stages]


def planned(whole: dict, stages: list[dict] = ()) -> tuple[dict, dict]:
    found = jobs.plan(whole, stages, RATES, PLACES)
    return {row["stage"]: row for row in found["stages"]}, found


def test_text_of_a_billion_tokens_by_hand() -> None:
    found, _ = planned(config(device="cpu"))
    read = (
        2**33 + 5 * BILLION
    )  # of `a` half of a billion tokens at 8 bytes, a quarter more, of 65 % of it
    assert {name: row["jobs"] for name, row in found.items()} == {
        "documents": 2, "tokenizer": 1, "token shards": 3, "n-grams": 1,
    }  # fmt: skip
    assert found["documents"]["gigabytes"] == pytest.approx(0.45 * read / 1e9, abs=1e-3)
    assert found["documents"]["hours"] == pytest.approx(read / 1e6 / 3600, abs=1e-4)
    tokens = 1.26 * BILLION
    assert found["token shards"]["gigabytes"] == pytest.approx(6 * tokens / 1e9, abs=1e-3)
    assert found["token shards"]["hours"] == pytest.approx(tokens / 1e5 / 3600, abs=1e-4)
    held = 0.65 * read + 11 * BILLION
    assert found["token shards"]["meanwhile_gigabytes"] == pytest.approx(held / 1e9, abs=1e-3)
    asked = resources.needs("tokens", "cpu", 0.45 * read / 2**20)["mem_mb"]
    assert found["token shards"]["memory_mb"] == asked
    counted = 1.01 * BILLION * 4 + 32 * BILLION
    assert found["n-grams"]["meanwhile_gigabytes"] == pytest.approx(counted / 1e9, abs=1e-3)
    assert found["documents"]["memory_mb"] == 1000  # no file to read


def test_jobs_of_models_by_hand() -> None:
    stages = [
        "training",
        "training",
        "calibration",
        "activations",
        "activations",
        "dictionary",
        "dictionary",
    ]
    whole = config(device="cuda")
    found, _ = planned(whole, rows(stages))
    shards = -(-976_562 // 3907) + -(-39_062 // 3907)  # of fit and of validation: 250 and 10
    assert shards == 260
    assert found["training"]["jobs"] == 3 + 2 * 2  # seeds, and two rates of each model
    assert found["calibration"]["jobs"] == 3
    assert found["activations"]["jobs"] == 3 * shards
    assert found["dictionary"]["jobs"] == 2
    assert found["training"]["gigabytes"] == 6.0
    assert found["training"]["meanwhile_gigabytes"] == pytest.approx(7 * 1.01 * 4)
    megabytes = max(resources.model_mb(whole, name) for name in ("dense", "moe"))
    work = megabytes * 2**18 * BILLION
    assert (
        found["training"]["memory_mb"]
        == resources.needs("training", "cuda", 0, megabytes, work)["mem_mb"]
    )
    together, _ = planned(config(device="cuda", shards_per_job=100), rows(stages))
    assert together["activations"]["jobs"] == 3 * 3  # 100, 100 and 60 shards
    assert together["activations"]["memory_mb"] == found["activations"]["memory_mb"]


def test_hours_of_a_profile_are_of_so_many_jobs_at_once() -> None:
    found, whole = planned(
        config(device="cuda"), rows(["training", "training", "activations", "figures"])
    )
    assert found["training"]["hours"] == 20.0  # of 7 jobs
    assert found["training"]["hours_by_profile"] == {
        "machine": pytest.approx(4 / 7 * 20, abs=1e-4), "one gpu": 20.0,
        "cluster": pytest.approx(20 / 7, abs=1e-4),
    }  # fmt: skip
    assert found["activations"]["hours_by_profile"]["cluster"] == pytest.approx(
        4 / 780 * 10, abs=1e-4
    )
    assert found["figures"]["hours_by_profile"]["one gpu"] == 10.0
    for name, place in whole["profiles"].items():
        every = [row["hours_by_profile"][name] for row in whole["stages"]]
        assert place["hours"] == pytest.approx(sum(hour or 0 for hour in every), abs=2e-3)
        assert place["jobs"] == PLACES[name]["jobs"]
    assert whole["hours_not_known"] == ["tokenizer"]


def test_what_is_not_known_stays_so() -> None:
    stages = [{"stage": "dictionary", "hours": None, "gigabytes": None}]
    found = jobs.plan(config(), stages, jobs.Rates(), PLACES)
    assert found["hours_not_known"] == [
        "documents",
        "tokenizer",
        "token shards",
        "n-grams",
        "dictionary",
    ]
    last = found["stages"][-1]
    assert last["gigabytes"] is None
    assert last["hours_by_profile"] == dict.fromkeys(PLACES)


def test_profiles_are_told_from_their_files() -> None:
    found = profiles.places(ROOT / "profiles")
    assert found["default"] == {"jobs": profiles.TOGETHER, "gpu": None}
    assert found["gpu"]["gpu"] == 1
    assert {"slurm", "kubernetes", "generic"} <= found.keys()
    assert all(found[name]["jobs"] == 200 for name in ("slurm", "kubernetes", "generic"))


STAGES = [
    "training", "calibration", "activations", "principal components", "planted", "affinity", "report",
    *table.AMOUNTS,
]  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_stage_of_an_estimate_is_planned(device: str) -> None:
    found = jobs.plan(config(device=device), rows([*STAGES, "token shards"]), RATES, PLACES)
    text = ["documents", "tokenizer", "token shards", "n-grams"]
    assert [row["stage"] for row in found["stages"]] == text + STAGES
    assert all(row["memory_mb"] > 0 for row in found["stages"])
    assert all(row["jobs"] > 0 for row in found["stages"] if row["stage"] != "planted")


def test_rates_of_text_are_measured_on_tales(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clock, "SECONDS", 0.01)
    monkeypatch.setattr(rates_text, "TALES", 40)
    whole = config()
    assert all(rate is None or rate > 100 for rate in rates_text.measured(whole, tmp_path))
    assert rates_text._rate(clock.Cost(3.0, 0.5), 20) == 40
    assert rates_text._rate(clock.Cost(3.0, 0.0), 20) is None
    del whole["corpus"]
    assert rates_text.measured(whole, tmp_path) == jobs.Rates()
