"""A tiny study, and the commands that run or plan it."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from moediff.corpus.tales import tales

ROOT = Path(__file__).parent.parent
TINY = {
    "corpus": {
        "domains": {"made": {"source": "tales"}, "own": {"source": "files", "paths": ["own/*.txt"]}},
        "tokens": {"train": 16_000, "fit": 12_000, "validation": 4_000},
        "splits": {"fit": 0.35, "validation": 0.2},
        "tokenizer": {"train": 400},
        "sequence": {"length": 64},
        "shard_tokens": 8_000,
    },
    "models": {
        "dense": {"train": {"d_model": 32, "layers": 2, "heads": 2, "ffn": 64}},
        "moe": {"like": "dense", "train": {"ffn": 32, "experts": 4, "top_k": 2}},
    },
    "training": {"peak_lr": [3.0e-3, 6.0e-3], "sweep_tokens": 4_000, "evaluations": 2},
    "recipes": {
        "default": {
            "k": 6, "features": 96, "exclusive": 4, "rows": 30_000, "batch": 256,
            "threshold_rows": 2_000,
        }
    },
    "comparisons": {"moe-dense": {"each": ["moe", "dense"]}, "moe": {"each": ["moe"]}},
}  # fmt: skip
DICTIONARY = "dictionaries/moe-dense/moe.0_dense.0/default/seed-0"


def prepare(folder: Path) -> Path:
    """Write the tiny study's config and the text that it reads."""
    (folder / "own").mkdir(parents=True)
    for number, text in enumerate(itertools.islice(tales(7), 150)):
        (folder / "own" / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump(TINY))
    return folder


def command(folder: Path, *arguments: str, tree: Path = ROOT) -> list[str]:
    return [
        sys.executable, "-m", "snakemake", *arguments, "-s", str(tree / "Snakefile"), "-d", str(folder),
        "--workflow-profile", str(tree / "profiles/default"), "--cores", "2",
    ]  # fmt: skip


def environment(tree: Path = ROOT) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree / "scripts"), "OMP_NUM_THREADS": "1"}


def snakemake(folder: Path, *arguments: str, tree: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(folder, *arguments, tree=tree),
        capture_output=True, text=True, env=environment(tree), check=False,
    )  # fmt: skip


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the folder's study."""
    return snakemake(folder, *arguments, "--configfile", str(folder / "config.yaml"))


def changed(folder: Path, change: dict, *arguments: str) -> subprocess.CompletedProcess:
    """Run the folder's study with a change merged into its config."""
    (folder / "change.yaml").write_text(yaml.safe_dump(change))
    files = [str(folder / "config.yaml"), str(folder / "change.yaml")]
    return snakemake(folder, *arguments, "--configfile", *files)


def planned(folder: Path, *changes: dict, tree: Path = ROOT) -> dict[str, int]:
    """Jobs that a dry-run of `all` would run, by rule, with changes merged into the config."""
    files = [str(folder / "config.yaml")]
    for number, change in enumerate(changes):
        path = folder / f"change-{number}.yaml"
        path.write_text(yaml.safe_dump(change))
        files.append(str(path))
    found = snakemake(folder, "-n", "--configfile", *files, tree=tree)
    assert found.returncode == 0, found.stderr
    if "Nothing to be done" in found.stdout + found.stderr:
        return {}
    stats = (found.stdout + found.stderr).rsplit("Job stats:", 1)[1]
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", stats, re.M)}


def shard_files(folder: Path) -> list[Path]:
    return sorted((folder / "results/activations").rglob("*.zarr.zip"))
