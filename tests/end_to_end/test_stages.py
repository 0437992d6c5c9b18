"""A model that begins with another, trained by keys of its own, through the whole workflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from moediff.core import artifact
from moediff.training import history
from workflow import TINY, changed, planned, prepare

# Two models that go on where `moe` ended: one by its routers alone, at the better of two rates.
STAGES = {
    "models": {
        "routed": {
            "like": "moe",
            "init": {"checkpoint": "moe"},
            "training": {
                "trainable": "router", "peak_lr": [1.0e-3, 1.0e-2], "router_losses": {"z": 1.0e-3},
            },
        },
        "longer": {
            "like": "moe",
            "init": {"checkpoint": "moe"},
            "sees": {"domains": ["own"]},
            "training": {"peak_lr": 1.0e-3},
        },
    },
    "comparisons": {"routed": {"each": ["moe", "routed"]}},
}  # fmt: skip
MODELS = [f"results/models/{name}/seed-0/model.json" for name in ("routed", "longer")]


def test_rates_of_a_model_are_its_own_sweep_and_what_it_begins_with_comes_first(
    tmp_path: Path,
) -> None:
    found = planned(prepare(tmp_path), STAGES)
    assert found["train"] == 4
    assert found["sweep_trial"] == 2 * 2 + 2
    assert found["sweep_best"] == 3


@pytest.mark.slow
def test_models_begin_where_their_source_ended_and_change_what_they_train(copied: Path) -> None:
    source = copied / "results/models/moe/seed-0"
    before = {path: path.stat().st_mtime_ns for path in source.iterdir()}
    found = changed(copied, STAGES, *MODELS)
    assert found.returncode == 0, found.stderr
    assert {path: path.stat().st_mtime_ns for path in source.iterdir()} == before
    weights = {
        name: load_file(copied / f"results/models/{name}/seed-0/model.safetensors")
        for name in ("moe", "routed", "longer")
    }
    differing = {
        name: [key for key in weights["moe"] if not weights["moe"][key].equal(weights[name][key])]
        for name in ("routed", "longer")
    }
    gates = [key for key in weights["moe"] if key.endswith("mlp.gate.weight")]
    assert differing["routed"] == gates
    assert len(differing["longer"]) > len(gates)
    digest = artifact.read_json(source / "model.json")["digest"]
    facts = artifact.read_json(copied / MODELS[0])
    assert facts["init"] == {"checkpoint": "moe", "digest": digest}
    assert facts["plan"]["router_losses"] == {"balance": 0.01, "z": 1.0e-3}
    ended = history.final_losses(history.read(source / "history.parquet"))
    for name in ("routed", "longer"):
        told = history.read(copied / f"results/models/{name}/seed-0/history.parquet")
        first = told.filter(split="train", domain="own", name="cross_entropy")["value"][0]
        assert first < ended["own"] + 0.3  # far from what random weights begin with
    assert set(told["name"]) == {"tokens", "learning_rate", "cross_entropy", "balance"}
    again = changed(copied, STAGES, *MODELS)
    assert "Nothing to be done" in again.stdout + again.stderr


# Rows shown in each way, of a model on its way and at its end.
EARLY = "moe-step-20.0_moe.0"
KEPT = {
    "models": {"moe": {"training": {"keep": {"steps": [20]}}}},
    "recipes": {
        name: TINY["recipes"]["default"] | {"normalise": name} for name in ("rms", "whiten")
    },
    "comparisons": {
        "early": {"each": ["moe:step-20", "moe"], "recipes": ["default", "rms", "whiten"]}
    },
}


@pytest.mark.parametrize("order", ["0", "4", "5", "6"])
def test_a_kept_model_is_made_by_the_run_of_its_own_model_in_whatever_order_jobs_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", order)
    targets = [
        f"results/dictionaries/early/{EARLY}/{name}/seed-0/{file}"
        for name in KEPT["recipes"]
        for file in ("metrics.json", "splicing.parquet", "deletion.json")
    ]
    found = changed(prepare(tmp_path), KEPT, "-n", *targets)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_a_model_on_its_way_is_a_source_whose_rows_are_shown_in_each_way(copied: Path) -> None:
    places = [f"results/dictionaries/early/{EARLY}/{name}/seed-0" for name in KEPT["recipes"]]
    targets = [
        f"{place}/{file}.{ending}"
        for place in places
        for file, ending in (("metrics", "json"), ("splicing", "parquet"), ("deletion", "json"))
    ] + [f"results/baselines/early/{EARLY}/divergence.parquet"]
    ended = copied / "results/models/moe/seed-0/model.safetensors"
    before = ended.read_bytes()
    found = changed(copied, KEPT, *targets)
    assert found.returncode == 0, found.stderr
    assert ended.read_bytes() == before
    early = artifact.read_json(copied / "results/models/moe-step-20/seed-0/model.json")
    assert early["step"] == 20
    assert early["digest"] != artifact.read_json(ended.with_name("model.json"))["digest"]
    told = history.read(ended.with_name("history.parquet"))
    at_step = told.filter(step=20, split="validation", domain="all", name="cross_entropy")["value"]
    for place in places:
        (row, *_) = artifact.read_json(copied / place / "metrics.json")["fve"]
        assert row["baseline_mean"] < 0.05
        losses = artifact.read_parquet(copied / place / "splicing.parquet").filter(
            domain="all", routing="live"
        )
        mine = {(row["source"], row["kind"]): row["cross_entropy"] for row in losses.to_dicts()}
        assert mine["moe-step-20.0", "clean"] == pytest.approx(at_step.item(), abs=0.2)
        assert mine["moe-step-20.0", "clean"] > mine["moe.0", "clean"]
        assert all(mine[name, "mean"] > mine[name, "spliced"] for name, _ in mine)
    again = changed(copied, KEPT, "-n", *targets)
    assert "Nothing to be done" in again.stdout + again.stderr
