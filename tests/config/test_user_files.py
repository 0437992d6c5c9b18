"""The user's files by their names, and the weights of domains: refused before any job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import PRESETS, SCHEMA
from moediff.config import complete
from moediff.config.corpus import domain_budgets
from moediff.core.errors import ConfigError


def refused(domains: dict[str, Any], models: dict[str, Any] | None = None) -> str:
    """The one line that refuses a config of these domains."""
    tokens = {"train": 4000, "fit": 2000, "validation": 1000}
    made = {"made": {"train": {"d_model": 8, "layers": 1, "heads": 1, "ffn": 8}}}
    config = {
        "corpus": {"domains": domains, "tokens": tokens},
        "models": made | (models or {}),
        "comparisons": {"sae": {"each": ["made"]}},
    }
    with pytest.raises(ConfigError) as caught:
        complete.complete(config, SCHEMA, PRESETS)
    assert str(caught.value).isprintable()
    return str(caught.value)


def files(*paths: str, **keys: Any) -> dict[str, Any]:
    return {"mine": {"source": "files", "paths": list(paths), **keys}}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b[0].txt", "b0.txt", "a.csv", "a.jsonl", "a.safetensors", "a[0].safetensors"):
        Path(name).write_text("word", encoding="utf-8")
    Path("a0.safetensors").touch()
    Path("gone.txt").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("domains", "said"),
    [
        (files("b[0].txt"), "'b[0].txt' is there, but as a pattern its brackets match other names"),
        (files("c[0].txt"), "no file matches 'c[0].txt' (from "),
        (files("a\0b/*.txt"), "its text holds a NUL"),
        (files("*.csv"), "a.csv: is a table; convert it to parquet or JSON lines"),
        (files("a.jsonl", "b0.txt", group="source"), "b0.txt: plain text, which has no column"),
        (files("g*.txt"), "'gone.txt' cannot be read: a link to nothing"),
        (files("a.jsonl", group="x", group_pattern="(" * 5000 + ")" * 5000), "is not a regular expr"),
        (files("a.jsonl", group="x", group_pattern="a{99999999999}"), "is not a regular expression"),
    ],
)  # fmt: skip
def test_text_files_are_checked_before_any_job(domains: dict, said: str) -> None:
    message = refused(domains)
    assert message.startswith("corpus.domains.mine.")
    assert said in message


def test_rows_whose_own_name_their_glob_does_not_match_are_refused() -> None:
    rows = {"fit": "a[0].safetensors", "validation": "a.safetensors"}
    message = refused({"made": {"source": "tales"}}, {"theirs": {"rows": rows}})
    assert message.startswith("models.theirs.rows.fit: 'a[0].safetensors' is there, but")
    assert "a[[]0].safetensors" in message


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ((1e29, 1), "corpus.domains.two.weight: 1 of 1e+29 is none of"),
        ((1, 1e-29), "corpus.domains.two.weight: 1e-29 of 1 is none of"),
        ((1e300, 1), "corpus.domains.one.weight: 1e+300 is too large"),
        ((1e-300, 1), "corpus.domains.one.weight: 1e-300 is too small"),
        ((1, 3000), "corpus.domains.one.weight: 1 of 3e+03 is none of 768 tokens"),
        ((10**400, 1), "a whole number of 1329 bits is larger than any here"),
    ],
)
def test_a_domain_that_would_get_no_token_is_refused(weights: tuple, said: str) -> None:
    domains = {
        name: {"source": "tales", "seed": seed, "weight": weight}
        for seed, (name, weight) in enumerate(zip(("one", "two"), weights, strict=True))
    }
    assert said in refused(domains)


def test_budgets_are_refused_where_they_are_computed_too() -> None:
    assert domain_budgets(1000, {"a": 1, "b": 999}) == {"a": 1, "b": 999}
    with pytest.raises(ConfigError, match=r"corpus\.domains\.a\.weight"):
        domain_budgets(400, {"a": 1, "b": 999})
