"""Evidence gathered from files: made by hand, so that every number is known."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from moediff.claims import assembly
from moediff.config.layout import Fit, Member, Source, path
from moediff.core import artifact
from moediff.core.errors import UserError

PRIMARY = {"moe": "moe", "dense": "dense", "recipe": "default"}
COUNTS = {"tied": 0, "dead": 1, "A-only": 2, "common": 5, "B-only": 3}


def written(folder: Path, fit: Fit, fve: float) -> dict[str, str]:
    """The files of a pair that claims read, at their places under a results folder."""
    names = [source.name for source in fit.member.sources]
    row = {
        "member": fit.member.name, "recipe": fit.recipe, "seed": fit.seed, "mode": "threshold",
        "rows": 100,
    }  # fmt: skip
    metrics = {
        "format": artifact.FORMAT,
        "sources": names,
        "classes": COUNTS,
        "early": {"fve": fve - 0.1, "classes": COUNTS | {"A-only": 4}},
        "fve": [row | {"source": names[0], "fve": 0.0}, row | {"source": "pooled", "fve": fve}],
    }
    shares = [("A-only", 0.2, 0.01), ("common", 0.7, 0.6), ("B-only", 0.02, 0.4)]
    deletion = {
        "format": artifact.FORMAT,
        "classes": [
            {"class": name, "shares": dict(zip(names, two, strict=True))} for name, *two in shares
        ],
    }
    table = pl.DataFrame({column: [0.5] for column in assembly.COLUMNS}).with_columns(
        pl.lit("common").alias("class")
    )
    paths = {
        name: str(folder / fit.path(file))
        for name, file in (
            ("metrics", "metrics.json"), ("deletion", "deletion.json"), ("features", "features.parquet")
        )
    }  # fmt: skip
    artifact.write_json(paths["metrics"], metrics)
    artifact.write_json(paths["deletion"], deletion)
    artifact.write_parquet(paths["features"], table, {"format": artifact.FORMAT})
    return paths


def pair_of(first: Source, second: Source, recipe: str = "default") -> Fit:
    return Fit(Member("pairs", (first, second)), recipe, 0)


def gathered(folder: Path, **more) -> assembly.Evidence:
    moe, dense = Source("moe", 0), Source("dense", 1)
    fits = [pair_of(moe, dense), pair_of(dense, Source("dense", 2)), pair_of(moe, dense, "wide"),
            pair_of(moe, Source("wide", 0))]  # fmt: skip
    paths = [written(folder, fit, 0.8 + number / 100) for number, fit in enumerate(fits)]
    artifact.write_json(
        folder / "classes.json",
        {
            "format": artifact.FORMAT,
            "error_rates": [
                {"recipe": "default", "control": "other seed", "exclusive": 0.1},
                {"recipe": "wide", "control": "rotated", "exclusive": 0.9},
            ],
        },
    )
    columns = {name: [path[name] for path in paths] for name in paths[0]}
    panels = (
        "panels",
        "panel_metrics",
        "panel_features",
        "panel_losses",
        "known_panels",
        "detectable",
    )
    empty = dict.fromkeys((*panels, "histories", "ngrams"), ())
    return assembly.gather(
        PRIMARY, **{**empty, **columns, **more}, classes=str(folder / "classes.json")
    )


def test_gather_reads_every_pair_and_the_firings_of_those_that_are_judged(tmp_path: Path) -> None:
    evidence = gathered(tmp_path)
    assert [(pair.models, pair.recipe) for pair in evidence.pairs] == [
        (("moe.0", "dense.1"), "default"), (("dense.1", "dense.2"), "default"),
        (("moe.0", "dense.1"), "wide"), (("moe.0", "wide.0"), "default"),
    ]  # fmt: skip
    medians = {"common": 50.0}
    assert evidence.firings == {"moe.0_dense.1/0": medians, "dense.1_dense.2/0": medians}
    early, end = evidence.counts["moe.0_dense.1/0"]
    assert early == {"A-only": 4, "common": 5, "B-only": 3}
    assert end == {"A-only": 2, "common": 5, "B-only": 3}
    assert evidence.exclusive == {"other seed": 0.1}


def test_read_pair_takes_each_source_s_own_exclusive_share(tmp_path: Path) -> None:
    pair = gathered(tmp_path).pairs[0]
    assert pair.exclusive == pytest.approx((0.2 + 0.4) / 2)
    assert (pair.fve, pair.fve_early) == pytest.approx((0.8, 0.7))


def test_gather_keeps_the_losses_of_models_that_are_judged_and_the_trigram(tmp_path: Path) -> None:
    ngrams = tmp_path / path("ngrams")
    rows = [
        {"model": model, "domain": domain, "cross_entropy": loss}
        for model, domain, loss in (
            ("trigram", "code", 1.0), ("trigram", "all", 2.5), ("bigram", "all", 3.0),
        )
    ]  # fmt: skip
    artifact.write_json(ngrams, {"format": artifact.FORMAT, "rows": rows})
    evidence = gathered(tmp_path, ngrams=[str(ngrams)])
    assert evidence.trigram == 2.5
    assert evidence.final_losses == {}
    with pytest.raises(UserError, match="not a path like models/"):
        gathered(tmp_path / "other", histories=["history.parquet"])


def test_firings_are_those_of_the_median_feature_of_each_free_class() -> None:
    """Few features that fire often lift the mean, which k fixes, and no median."""
    fired = {"A-only": [2, 3, 900], "common": [100, 101], "dead": [0] * 9, "tied": [1, 1]}
    table = pl.DataFrame(
        [
            {"class": name, "density": count / 997}
            for name, counts in fired.items()
            for count in counts
        ]
    )
    assert assembly.median_firings(table, 997) == {"A-only": 3.0, "common": 100.5}
    assert assembly.median_firings(table.clear(), 997) == {}
