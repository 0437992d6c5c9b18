"""What a run will take: amounts known by hand, every stage timed, no size invented."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import DENSE, MOE, PRESETS, SCHEMA
from moediff.config.complete import complete
from moediff.core.errors import UserError
from moediff.models import build, fetching, loading
from moediff.report.budget import clock, measuring, table
from moediff.report.budget.clock import Cost, attempt, cost, rate
from workflow import TINY, planned, prepare

CPU = torch.device("cpu")
PRIMARY = {"moe": "moe", "dense": "dense", "recipe": "default"}


def config() -> dict:
    return complete(
        {
            "corpus": {
                "domains": {"made": {"source": "tales"}},
                "tokens": {"train": 20_000, "fit": 40_000, "validation": 10_000},
                "tokenizer": {"train": 400},
                "sequence": {"length": 64},
            },
            "models": {
                "moe": {
                    "train": {
                        "d_model": 32,
                        "layers": 2,
                        "heads": 2,
                        "ffn": 32,
                        "experts": 4,
                        "top_k": 2,
                    }
                }
            },
            "training": {"peak_lr": [0.001, 0.002], "sweep_tokens": 5_000, "seeds": [0, 1]},
            "recipes": {"default": {"k": 4, "features": 64, "rows": 50_000}},
            "comparisons": {"null": {"each": ["moe", "moe"]}},
        },
        SCHEMA,
        PRESETS,
    )


def test_budget_counts_what_will_be_done(monkeypatch) -> None:
    monkeypatch.setattr(clock, "SECONDS", 0.05)
    found = table.estimate(config(), CPU, PRIMARY)
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert stages["token shards"]["amount"] == 70_000
    assert stages["training"]["amount"] == 2 * 20_000 + 2 * 5_000
    assert stages["activations"]["amount"] == 2 * 50_000
    row = 64 + 41 + 2 * 2 * 6  # values, columns, two experts and gates in each of two layers
    assert stages["activations"]["gigabytes"] == pytest.approx(100_000 * row / 1e9, abs=1e-4)
    assert stages["dictionary"]["amount"] == 50_000
    training = stages["training"]
    assert training["hours"] == pytest.approx(50_000 / training["rate"] / 3600, abs=1e-4)
    assert found["hours"] == pytest.approx(sum(s["hours"] or 0 for s in found["stages"]), abs=1e-3)


def test_budget_trains_a_model_by_its_own_keys(monkeypatch) -> None:
    monkeypatch.setattr(clock, "SECONDS", 0.05)
    own = config()
    own["models"]["moe"]["training"] = {"epochs": 3, "peak_lr": 1.0e-3, "trainable": "router"}
    stages = {stage["stage"]: stage for stage in table.estimate(own, CPU, PRIMARY)["stages"]}
    assert stages["training"]["amount"] == 2 * 3 * 20_000  # one rate: no sweep


def test_a_disk_that_is_too_small_is_warned_of(monkeypatch, tmp_path: Path) -> None:
    stages = [
        {"stage": "activations", "gigabytes": 60.0}, {"stage": "dictionary", "gigabytes": 30.0},
    ]  # fmt: skip
    free = SimpleNamespace(free=100e9)
    monkeypatch.setattr(table.shutil, "disk_usage", lambda place: free)
    place = tmp_path / "not" / "yet" / "there"
    assert table.disk(stages, place, keep=True)["warning"] is None
    free.free = 80e9
    warning = table.disk(stages, place, keep=True)["warning"]
    assert "90.0 GB are needed, 60.0 of them" in warning
    assert "80.0 GB are free" in warning
    assert "activations.keep to false" in warning
    assert "keep to false" not in table.disk(stages, place, keep=False)["warning"]


# --- every stage ---------------------------------------------------------------------------------

ARCHITECTURE = {"d_model": 32, "layers": 2, "heads": 2, "ffn": 64}


def study(**more: object) -> dict:
    """A MoE and a dense model, a crosscoder over both, an SAE on each, and what `more` changes."""
    whole = config_of(
        models={
            "dense": {"train": ARCHITECTURE},
            "moe": {"like": "dense", "train": {"ffn": 32, "experts": 4, "top_k": 2}},
        },
        comparisons={
            "both": {"each": ["moe", "dense"]}, "moe": {"each": ["moe"]}, "dense": {"each": ["dense"]},
        },
    )  # fmt: skip
    return complete(whole | more, SCHEMA, PRESETS)


def config_of(**sections: object) -> dict:
    corpus = {
        "domains": {"made": {"source": "tales"}, "other": {"source": "stdlib"}},
        "tokens": {"train": 20_000, "fit": 40_000, "validation": 6_400},
        "tokenizer": {"train": 400},
        "sequence": {"length": 64},
    }
    recipes = {"default": {"k": 4, "features": 64, "rows": 50_000, "batch": 256}}
    return {"corpus": corpus, "recipes": recipes} | sections


def estimated(config: dict, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, dict[tuple, dict]]:
    """The estimate, and its rows by stage and name."""
    monkeypatch.setattr(clock, "SECONDS", 0.02)
    found = table.estimate(config, CPU, PRIMARY)
    return found, {(row["stage"], row["name"]): row for row in found["stages"]}


def test_every_stage_of_the_default_has_its_amount_and_hours(monkeypatch) -> None:
    found, rows = estimated(study(), monkeypatch)
    pair, moe, dense = (
        "both/moe.0_dense.0/default/0",
        "moe/moe.0/default/0",
        "dense/dense.0/default/0",
    )
    amounts = {key: row["amount"] for key, row in rows.items()}
    assert amounts == {
        ("token shards", ""): 66_400,
        **{("training", name): 20_000 for name in ("dense", "moe")},
        **{("calibration", name): 32 * 64 for name in ("dense", "moe")},
        **{("activations", name): 46_400 for name in ("dense", "moe")},
        **{("principal components", name.rsplit("/", 2)[0]): 40_000 for name in (pair, moe, dense)},
        **{("dictionary", name): 50_000 for name in (pair, moe, dense)},
        **{("metrics", name): 6_400 for name in (pair, moe, dense)},
        **{("examples", name): 6_400 for name in (pair, moe, dense)},
        **{(stage, pair): 6_400 for stage in ("deletion", "matching")},
        ("splicing", pair): 64,
        ("affinity", f"{pair}/moe.0"): 6_400,
        **{("figures", name): 64 for name in (moe, dense)},
        ("charts", pair): 64,
        ("report", ""): 3 * 64,
    }
    timed = [row for row in found["stages"] if row["stage"] != "token shards"]
    assert all(row["hours"] is not None and row["why"] is None for row in timed)
    assert all(row["rate"] > 0 for row in timed)
    assert found["unknown"] == {"hours": 1, "gigabytes": 0}


def test_splicing_takes_no_more_sequences_than_there_are(monkeypatch) -> None:
    _, rows = estimated(study(reruns={"sequences": 1000}), monkeypatch)
    assert rows["splicing", "both/moe.0_dense.0/default/0"]["amount"] == 6_400 // 64


def test_a_panel_is_timed_with_its_losses_and_controls_with_their_views(monkeypatch) -> None:
    comparisons = {
        "panel": {"all": ["moe", "dense"]}, "turned": {"each": ["moe"], "control": "rotated"},
    }  # fmt: skip
    change = {"training": {"seeds": [0, 1]}, "comparisons": comparisons}
    found, rows = estimated(study(**change), monkeypatch)
    panel = "panel/moe.0_moe.1_dense.0_dense.1/default/0"
    assert rows["panel", panel]["amount"] == 6_400
    assert rows["panel_loss", panel]["amount"] == 64
    assert ("deletion", "turned/moe.0_moe.0.rotated/default/0") in rows
    assert found["unknown"]["hours"] == 1


# Stage here -> rule that it stands for.
RULES = {
    "principal components": "principal_components", "dictionary": "fit", "splicing": "splice",
    "calibration": "calibrate", "training": "train",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["pairs", "a panel"])
def test_each_stage_is_of_as_many_jobs_as_are_planned(kind: str, tmp_path, monkeypatch) -> None:
    folder, change = prepare(tmp_path), {}
    if kind == "a panel":
        comparisons = {
            "panel": {"all": ["moe", "dense"]}, "wrong": {"each": ["moe", "dense"], "control": "permuted"},
        }  # fmt: skip
        change = {"training": {"seeds": [0, 1]}, "comparisons": comparisons}
    jobs = planned(folder, change)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(clock, "SECONDS", 0.02)
    monkeypatch.setattr(measuring.Study, "_time_dictionaries", lambda study: None)
    monkeypatch.setattr(measuring.Study, "affinity", lambda *_: (None, "not asked"))
    config = complete(merged(TINY, change), SCHEMA, PRESETS)
    stages = Counter(row["stage"] for row in table.estimate(config, CPU, PRIMARY)["stages"])
    seeds = len(config["training"]["seeds"])
    for stage in stages.keys() - {"token shards", "activations", "charts"}:
        a_model = stage in ("training", "calibration")  # one row for all of its seeds
        planned_jobs = jobs[RULES.get(stage, stage)]
        assert stages[stage] * (seeds if a_model else 1) == planned_jobs, stage
    told = {RULES.get(stage, stage) for stage in stages}
    apart = ("gather_", "charts_", "sweep_", "documents", "token", "ngrams")
    left = {job for job in jobs if not job.startswith(apart)} - told
    of_tables = {"all", "total", "judge", "manifest", "stages"} | ({"kinds"} if change else set())
    assert left == of_tables | {"cache"}  # one row for all shards


def merged(base: dict, change: dict) -> dict:
    """A config with what Snakemake merges into it."""
    both = {
        key: merged(base[key], value) if isinstance(base.get(key), dict) else value
        for key, value in change.items()
    }
    return base | both


# --- checkpoints ---------------------------------------------------------------------------------


def beside(load: str, **more: object) -> dict:
    """A model trained here beside a checkpoint that reads by a tokenizer of its own."""
    models = {
        "dense": {"train": ARCHITECTURE},
        "moe": {"load": load, "tokenizer": "own", **more},
    }
    comparisons = {"both": {"each": ["moe", "dense"]}, "dense": {"each": ["dense"]}}
    return complete(config_of(models=models, comparisons=comparisons), SCHEMA, PRESETS)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    loading.save(build.build(MOE | {"d_model": 16}, 300, 64, 0, 0), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_checkpoint_on_this_machine_has_hours_for_all_that_it_is_in(
    checkpoint: Path, monkeypatch
) -> None:
    found, rows = estimated(beside(str(checkpoint)), monkeypatch)
    cached = rows["activations", "moe"]
    assert cached["amount"] == 46_400
    assert cached["rate"] > 0
    each = 16 * 2 + 33 + 2 * 2 * 6  # values, columns, two experts and gates in each of two layers
    assert cached["gigabytes"] == pytest.approx(46_400 * each / 1e9, abs=1e-3)
    pair = "both/moe.0_dense.0/default/0"
    size = 4 * 2 * 64 * (16 + 32) * 7
    assert rows["dictionary", pair]["gigabytes"] == pytest.approx(size / 1e9, abs=1e-3)
    assert {"splicing", "matching", "affinity"} <= {row["stage"] for row in found["stages"]}
    assert found["unknown"] == {"hours": 1, "gigabytes": 0}  # of token shards


def test_two_checkpoints_have_the_hours_of_their_divergence(checkpoint: Path, monkeypatch) -> None:
    """Their vocabularies are of two sizes, as where one was tuned with an added token."""
    loading.save(build.build(DENSE, 310, 64, 0, 0), checkpoint.parent / "other")
    models = {
        name: {"load": str(checkpoint.parent / folder), "tokenizer": "own"}
        for name, folder in (("moe", "tiny"), ("dense", "other"))
    }
    comparisons = {"both": {"each": ["moe", "dense"]}}
    config = complete(config_of(models=models, comparisons=comparisons), SCHEMA, PRESETS)
    found, rows = estimated(config, monkeypatch)
    assert rows["divergence", "both/moe.0_dense.0/default/0"]["amount"] == 64
    assert found["unknown"] == {"hours": 1, "gigabytes": 0}


def test_of_a_checkpoint_that_would_be_fetched_no_size_is_invented(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found, rows = estimated(beside("nobody/of-this-name"), monkeypatch)
    pair = "both/moe.0_dense.0/default/0"
    for key in (("activations", "moe"), ("dictionary", pair)):
        assert rows[key]["hours"] is None
        assert rows[key]["gigabytes"] is None
    for stage in ("metrics", "splicing", "examples"):
        assert rows[stage, pair]["hours"] is None
        assert "the width of 'moe' is not known" in rows[stage, pair]["why"]
    assert "nobody/of-this-name is not on this machine" in rows["activations", "moe"]["why"]
    known = rows["dictionary", "dense/dense.0/default/0"]
    assert known["hours"] is not None
    assert rows["report", ""]["hours"] is None
    hours = sum(row["hours"] for row in found["stages"] if row["hours"] is not None)
    assert found["hours"] == pytest.approx(hours, abs=1e-3)
    assert found["unknown"]["gigabytes"] == 2
    assert found["unknown"]["hours"] == sum(row["hours"] is None for row in found["stages"])


def test_a_checkpoint_that_does_not_open_is_one_line_and_its_width_is_that_of_its_config(
    checkpoint: Path, monkeypatch
) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"cut")
    _, rows = estimated(beside(str(checkpoint)), monkeypatch)
    cached, pair = rows["activations", "moe"], "both/moe.0_dense.0/default/0"
    assert cached["hours"] is None
    assert "its weights are not whole" in cached["why"]
    assert "\n" not in cached["why"]
    assert cached["gigabytes"] is not None
    assert rows["dictionary", pair]["hours"] is not None
    assert rows["metrics", pair]["hours"] is not None
    assert "'moe' could not be run" in rows["splicing", pair]["why"]


def test_what_does_not_fit_into_memory_is_one_line(monkeypatch) -> None:
    monkeypatch.setattr(measuring, "HERE", 1e-3)  # a megabyte
    _, rows = estimated(study(), monkeypatch)
    assert "training 'dense' takes" in rows["training", "dense"]["why"]
    assert "this machine has" in rows["training", "dense"]["why"]
    assert rows["activations", "moe"]["hours"] is None
    assert rows["activations", "moe"]["gigabytes"] > 0


def test_a_checkpoint_of_the_hub_s_cache_is_here_with_its_weights_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(checkpoint))
    assert fetching.here("owner/name", None) == checkpoint
    (checkpoint / "model.safetensors").rename(tmp_path / "elsewhere")
    assert fetching.here("owner/name", None) is None


def test_an_adapter_is_here_only_with_its_base(
    checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    told = adapter / "adapter_config.json"
    told.write_text(json.dumps({"base_model_name_or_path": str(checkpoint)}))
    assert fetching.here(str(adapter), None) == adapter
    told.write_text(json.dumps({"base_model_name_or_path": "nobody/of-this-name"}))
    assert fetching.here(str(adapter), None) is None


def test_a_size_that_is_not_known_makes_the_need_for_disk_a_least_one(
    monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(table.shutil, "disk_usage", lambda place: SimpleNamespace(free=10e9))
    stages = [
        {"stage": "activations", "gigabytes": 60.0},
        {"stage": "dictionary", "gigabytes": None},
    ]
    assert "at least 60.0 GB are needed" in table.disk(stages, tmp_path, keep=True)["warning"]


# --- the clock -----------------------------------------------------------------------------------


class Clock:
    """Time that passes only when work is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 0.0, 0
        monkeypatch.setattr(clock.time, "perf_counter", lambda: self.now)

    def work(self, seconds: float) -> None:
        self.now, self.calls = self.now + seconds, self.calls + 1


def test_cost_tells_what_grows_from_what_does_not(monkeypatch) -> None:
    passing = Clock(monkeypatch)
    assert cost(lambda size: passing.work(0.5 + 0.01 * size), 10) == pytest.approx((0.5, 0.01))
    assert Cost(0.5, 0.01).seconds(1000) == pytest.approx(10.5)


def test_cost_runs_long_work_twice(monkeypatch) -> None:
    passing = Clock(monkeypatch)
    assert cost(lambda size: passing.work(30 + size), 10) == pytest.approx((30, 1))
    assert passing.calls == 2


def test_rate_leaves_out_the_first_call_but_of_long_work(monkeypatch) -> None:
    passing = Clock(monkeypatch)

    def warming() -> int:
        passing.work(1.0 if not passing.calls else 0.1)
        return 5

    assert rate(warming) == pytest.approx(50)

    def long() -> int:
        passing.work(60)
        return 120

    assert rate(long) == pytest.approx(2)


def test_attempt_says_why_in_one_line_and_raises_faults_of_ours() -> None:
    def fails(error: Exception) -> str | None:
        def measure() -> None:
            raise error

        return attempt(measure)

    assert fails(UserError("bad\nmore")) == "bad"
    assert fails(MemoryError()) == "MemoryError"
    assert (
        fails(RuntimeError("can't allocate memory: you tried"))
        == "can't allocate memory: you tried"
    )
    assert attempt(lambda: None) is None
    with pytest.raises(RuntimeError, match="shape"):
        fails(RuntimeError("shape"))
