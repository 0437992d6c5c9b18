"""Configs of external activations: what they need, and what is refused before any job."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from conftest import PRESETS, SCHEMA
from external_rows import arrays, write
from moediff.config import activations, comparisons, complete
from moediff.config.rows import row_domains, row_files, row_paths
from moediff.core.errors import ConfigError
from moediff.report.budget import table

ALONE = """
models:
  one: {rows: {fit: "one/fit-*.safetensors", validation: [one/val-0.safetensors]}}
  two: {rows: {fit: ["two/fit-0", "two/fit-1"], validation: two/val-*, domains: [x, y]}}
comparisons: {pair: {each: [one, two]}}
"""


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that ALONE names."""
    monkeypatch.chdir(tmp_path)
    for model, suffix in (("one", ".safetensors"), ("two", "")):
        Path(model).mkdir()
        for name in ("fit-1", "fit-0", "val-0"):
            write(Path(model) / f"{name}{suffix}", arrays())
    return tmp_path


def completed(change: str = "{}") -> dict:
    whole = yaml.safe_load(ALONE)
    for section, keys in yaml.safe_load(change).items():
        whole.setdefault(section, {}).update(keys)
    return complete.complete(whole, SCHEMA, PRESETS)


def test_a_config_of_rows_alone_needs_no_corpus(there: Path) -> None:
    config = completed()
    assert "corpus" not in config
    assert row_paths(config, "one", "fit") == [
        "one/fit-0.safetensors", "one/fit-1.safetensors",
    ]  # fmt: skip
    assert activations.model_shards(config, "two", "fit") == 2
    assert [fit.member.name for fit in comparisons.fits(config)] == ["one.0_two.0"]
    assert row_domains(config, "one") == ["all"]
    assert row_domains(config, "two") == ["x", "y"]
    assert row_files("two/fit-0") == [
        f"two/fit-0/{name}.npy" for name in sorted(arrays())
    ]  # fmt: skip


CORPUS = (
    "corpus: {domains: {made: {source: tales}}, tokens: {train: 900, fit: 900, validation: 500}"
)
MADE = "models: {made: {train: {d_model: 8, layers: 1, heads: 1, ffn: 8}}}"
MIXED = "comparisons: {mixed: {each: [made, one]}}"


def test_rows_beside_a_model_of_ours_are_as_many_shards_of_the_same_domains(there: Path) -> None:
    config = completed(f"{{{CORPUS}, shard_tokens: 512}}, {MADE}, {MIXED}}}")
    assert activations.model_shards(config, "made", "fit") == 2
    assert row_domains(config, "one") == ["made"]
    assert row_domains(config, "two") == ["x", "y"]


BAD = {
    "no file": (
        "models: {a: {rows: {fit: no/*.npz, validation: two/val-0}}}",
        "models.a.rows.fit: no file matches 'no/*.npz'",
    ),
    "one glob of several": (
        "models: {a: {rows: {fit: [two/fit-0, gone], validation: two/val-0}}}",
        "no file matches 'gone'",
    ),
    "no validation": (
        "models: {a: {rows: {fit: two/fit-0}}}",
        "models.a.rows: the key 'validation' is missing",
    ),
    "kind of file": (
        "models: {a: {rows: {fit: two/fit-0/*.npy, validation: two/val-0}}}",
        "'two/fit-0/activations.npy' is neither a .safetensors file nor a folder",
    ),
    "empty folder": (
        "models: {a: {rows: {fit: two, validation: two/val-0}}}",
        "'two' is neither",
    ),
    "fit is validation": (
        "models: {a: {rows: {fit: two/*, validation: two/val-0}}}",
        "models.a.rows.validation: 'two/val-0' is named twice",
    ),
    "unknown key": (
        "models: {a: {rows: {fit: two/fit-0, validation: two/val-0, tensor: x}}}",
        "models.a.rows: unknown key 'tensor'; known keys: array, domains",
    ),
    "domain twice": (
        "models: {a: {rows: {fit: two/fit-0, validation: two/val-0, domains: [x, x]}}}",
        "models.a.rows.domains",
    ),
    "shards of rows": (
        "{models: {a: {rows: {fit: two/fit-0, validation: two/val-0}}}, "
        "comparisons: {c: {each: [one, a]}}}",
        "comparisons.c: its sources have different numbers of fit shards (one 2, a 1)",
    ),
    "shards of the corpus": (
        f"{{{CORPUS}}}, {MADE}, {MIXED}}}",
        "comparisons.mixed: its sources have different numbers of fit shards (made 1, one 2)",
    ),
    "a model without a corpus": (MADE, "the key 'corpus' is missing"),
    "like rows": ("models: {a: {like: one}}", "'one' is external activations; only a trained"),
    "load and rows": (
        "models: {a: {load: x, rows: {fit: two/fit-0, validation: two/val-0}}}",
        "models.a: unknown key 'rows'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_config_is_refused_in_one_line_before_any_job(there: Path, case: str) -> None:
    change, said = BAD[case]
    with pytest.raises(ConfigError) as caught:
        completed(change)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_budget_counts_the_rows_that_are_there(there: Path, monkeypatch) -> None:
    monkeypatch.setattr("moediff.report.budget.clock.SECONDS", 0.02)
    config = completed("recipes: {default: {k: 2, features: 16, batch: 32}}")
    primary = {"moe": "moe", "dense": "dense", "recipe": "default"}
    found = table.estimate(config, torch.device("cpu"), primary)
    rows = [stage for stage in found["stages"] if stage["stage"] == "activations"]
    assert [(stage["name"], stage["amount"]) for stage in rows] == [("one", 900), ("two", 900)]
    assert {stage["stage"] for stage in found["stages"]} == {
        "activations", "principal components", "dictionary", "metrics", "deletion", "moved", "charts",
        "report",
    }  # fmt: skip
    assert {stage["why"] for stage in rows} == {"external activations are copied"}
    assert all(stage["hours"] is not None for stage in found["stages"] if stage not in rows)
    amounts = {stage["stage"]: stage["amount"] for stage in found["stages"]}
    assert (amounts["principal components"], amounts["metrics"]) == (600, 300)
