"""What the workflow refuses, in one line and as early as it can be known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workflow import DICTIONARY, changed, prepare, run

BAD_CONFIGS = {
    "unknown key": ({"corpus": {"sequence": {"lenght": 3}}}, "lenght"),
    "misspelt source": ({"corpus": {"domains": {"made": {"source": "tails"}}}}, "tails"),
    "text for a number": ({"training": {"peak_lr": "5e-4"}}, "5.0e-4"),
    "missing file": ({"corpus": {"domains": {"own": {"paths": ["no/*.txt"]}}}}, "no/*.txt"),
    "k over features": ({"recipes": {"default": {"k": 97}}}, "97"),
    "layer": ({"activations": {"layer": 2}}, "layer"),
    "hook": ({"activations": {"hook": "resid_pro"}}, "resid_pro"),
    "one of several layers": ({"activations": {"layer": [0, 2]}}, "layer"),
    "point": ({"comparisons": {"x": {"each": ["moe@resid_post.1"]}}}, "resid_post.0.5"),
    "twice": ({"comparisons": {"x": {"all": ["moe", "moe"]}}}, "twice"),
    "rows": ({"models": {"x": {"rows": {"fit": "no/*", "validation": "no/*"}}}}, "no/*"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_bad_config_ends_in_one_line_before_any_job(tmp_path: Path, name: str) -> None:
    folder = prepare(tmp_path / "study")
    change, said = BAD_CONFIGS[name]
    found = changed(folder, change, "results/fve.json")
    assert found.returncode != 0
    lines = [line for line in found.stderr.splitlines() if line.startswith("config error:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in found.stderr
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("results/plots/panel.svg", "no comparison is a panel"),
        (f"results/{DICTIONARY}/panel.json", "a panel has several models"),
        (f"results/{DICTIONARY}/experts/dense.0/affinity.parquet", "take an MoE"),
        (f"results/{DICTIONARY}/experts/moe.1/masked.parquet", "its sources are moe.0, dense.0"),
        (f"results/{DICTIONARY}/metrics.json".replace("moe.0_", "moe.9_"), "has moe.0_dense.0"),
        (
            f"results/{DICTIONARY}/metrics.json".replace("seed-0", "seed-5"),
            "not fitted by this config",
        ),
        (
            f"results/exports/saelens/{DICTIONARY}/cfg.json".replace("dictionaries/", ""),
            "one source",
        ),
        ("results/baselines/moe/moe.0/anchor.parquet", "several sources"),
        ("results/baselines/moe/moe.0/similarity.parquet", "several sources"),
        ("results/baselines/moe/moe.0/divergence.parquet", "only two sources have a divergence"),
        ("results/dictionaries/moe/moe.0/default/seed-0/deletion.json", "only two sources"),
    ],
)
def test_what_cannot_be_had_is_refused_before_any_job(
    tmp_path: Path, target: str, said: str
) -> None:
    found = run(prepare(tmp_path), "-n", target)
    assert found.returncode != 0
    lines = [line for line in found.stderr.splitlines() if line.startswith("config error: ")]
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "target", "said"),
    [
        ({"corpus": {"tokens": {"fit": 900_000}}}, "corpus/fit/00000.h5", "add text"),
        ({"corpus": {"domains": {"own": {"paths": ["bad.txt"]}}}}, "corpus/own.parquet", "UTF-8"),
        (
            {"corpus": {"domains": {"own": {"paths": ["empty.txt"]}}}},
            "corpus/own.parquet",
            "no text",
        ),
    ],
)
def test_bad_text_ends_in_one_line(tmp_path: Path, change: dict, target: str, said: str) -> None:
    folder = prepare(tmp_path / "study")
    (folder / "bad.txt").write_bytes(b"caf\xe9 au lait")
    (folder / "empty.txt").write_text("  \n")
    found = changed(folder, change, f"results/{target}")
    assert found.returncode != 0
    lines = [line for line in found.stderr.splitlines() if "error in" in line]
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.slow
def test_a_rate_that_diverges_loses_its_sweep_and_does_not_end_it(copied: Path) -> None:
    best = "results/models/moe/sweep/best.json"
    found = changed(copied, {"training": {"peak_lr": [3.0e-3, 1.0e30]}}, best)
    assert found.returncode == 0, found.stderr
    assert json.loads((copied / best).read_text())["peak_lr"] == 3.0e-3
    trial = json.loads((copied / "results/models/moe/sweep/lr-1e+30.json").read_text())
    assert trial["cross_entropy"] is None
    found = changed(copied, {"training": {"peak_lr": [1.0e30, 2.0e30]}}, best)
    assert found.returncode != 0
    assert "add lower ones" in found.stderr
