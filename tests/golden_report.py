"""What charts, page and budget make of it: their golden outcomes."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import altair as alt
import numpy as np
import polars as pl

from conftest import PRESETS, SCHEMA
from golden_world import CPU, KINDS, Outcome, Small, flat
from moediff.analysis import (
    kinds,
    panel,
)
from moediff.config.complete import complete
from moediff.core import artifact
from moediff.report import notes, page
from moediff.report.budget import clock, rates, rates_together, table
from moediff.report.charts import dictionaries, features
from moediff.report.charts.classes import classes_chart
from moediff.report.charts.experts import affinity_chart
from moediff.report.charts.kinds import map_chart, splits_chart
from moediff.report.charts.panel import panel_chart
from moediff.report.charts.splicing import domains_chart
from moediff.report.charts.synthetic import planted_chart
from moediff.report.charts.training import training_chart
from moediff.report.finding import Finding
from moediff.report.labels import label_of
from workflow import TINY


def drawn(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """What a chart says to Vega-Lite: marks, encodings and titles, its rows in place of names of tables.

    Left out are the theme, and the names that Altair numbers. Numbers have six digits.
    """
    whole = chart.to_dict()
    tables = whole.pop("datasets", {})
    left_out = {"config", "$schema", "name", "params", "views", "background"}

    def plain(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"name"} and value["name"] in tables:
            return sorted(map(artifact.canonical, plain(tables[value["name"]])))
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items() if key not in left_out}
        if isinstance(value, list):
            return [plain(part) for part in value]
        return float(f"{value:.6g}") if isinstance(value, float) else value

    return plain(whole)


def _charts() -> dict[str, Callable[[], alt.TopLevelMixin]]:
    """Every chart, of a few rows."""
    sides = ("moe", "dense")
    size = {"width": 200, "height": 120}
    about = {"comparison": "c", "member": "moe.0_dense.0", "recipe": "r", "seed": 0}
    fits = pl.DataFrame([about | {"recipe": recipe, "k": k, "l0": k + 0.5, "fve": 0.8 + k / 100,
                                  "baseline_mean": -0.01, "baseline_pca": 0.4 + k / 100}
                         for recipe, k in (("small", 4), ("large", 12))])  # fmt: skip
    classes = ["A-only", "common", "common", "B-only", "tied", "dead"]
    table = pl.DataFrame({
        "dictionary": ["d"] * 6, "class": classes, "relative_norm": [0.05, 0.5, 0.45, 0.9, 0.5, 0.5],
        "density": [0.1, 0.02, 0.03, 0.004, 0.3, 0.0], "nu_error": [0.1, 0.8, 0.9, 0.2, 0.9, None],
        "nu_reconstruction": [0.2, 1.0, 0.9, 0.1, 1.0, None],
    })  # fmt: skip
    counts = pl.DataFrame({"comparison": ["c"] * 6, "sides": [["moe", "dense"]] * 6,
                           "class": classes, "features": [10, 70, 5, 20, 6, 2],
                           "false_exclusive": [0.1] * 6, "missed_exclusive": [0.2] * 6})  # fmt: skip
    told = pl.DataFrame([{"model": "moe", "layer": layer, "class": name, "corrected": value * (layer + 1)}
                         for layer in (0, 1) for name, value in (("A-only", 4e-4), ("common", 2e-4),
                                                                 ("B-only", 1e-5))])  # fmt: skip
    losses = pl.DataFrame([
        about | {"source": source, "domain": domain, "routing": "live", "kind": kind, "tokens": 9,
                 "cross_entropy": value, "recovered_zero": (8 - value) / 4, "recovered_mean": (6 - value) / 2}
        for source in ("moe.0", "dense.0") for domain in ("all", "code")
        for kind, value in (("clean", 4.0), ("spliced", 4.5), ("mean", 6.0), ("zero", 8.0))
    ])  # fmt: skip
    splits = panel.drawn_rows("d", [
        {"side": side, "share": share, "features": 1, "true": share == 0.3}
        for side in (*KINDS, panel.EITHER) for share in (0.3, 0.2, 0.1)
    ], [{"kind": "moe", "statistic": "share", "interval": [0.25, 0.35]}])  # fmt: skip
    points = np.array([[0, 0], [1, 3], [7, 1], [9, 4.5]])
    apart = ((points[:, None] - points) ** 2).sum(2)
    one = about | {"kinds": KINDS, "unknown": None} | kinds.graded(apart, KINDS)
    found = pl.DataFrame([{"factor": factor, "level": str(level), "part": "score", "method": method,
                           "in_use": True, "precision": 0.5 + level / 20, "recall": right, "f1": right,
                           "planted": level, "attributed": 3}
                          for factor, levels in (("scale", (1, 2)), ("strength", (2, 5)), ("unique", (0, 1)))
                          for level in levels for method, right in (("m", 0.5), ("n", 0.7))])  # fmt: skip
    history = pl.DataFrame([{"model": model, "seed": "0", "tokens": tokens, "cross_entropy": 5 - tokens / 1e3}
                            for model in ("moe", "dense") for tokens in (500, 1000)])  # fmt: skip
    ngrams = pl.DataFrame({"model": ["bigram", "trigram"], "cross_entropy": [4.8, 4.2]})
    return {
        "training": lambda: training_chart(history, ngrams, size),
        "fve": lambda: dictionaries.fve_chart(fits, size),
        "frontier": lambda: dictionaries.frontier_chart(fits, size),
        "norms": lambda: features.relative_norm_chart(table, (0.3, 0.7), sides, size, table),
        "density": lambda: features.density_chart(table, sides, size),
        "scaling": lambda: features.nu_chart(table, sides, size),
        "classes": lambda: classes_chart(counts, size),
        "affinity": lambda: affinity_chart(told, sides, size),
        "domains": lambda: domains_chart(losses, {"moe.0": "moe", "dense.0": "dense"}, size),
        "panel": lambda: panel_chart(splits, size),
        "splits": lambda: splits_chart({label_of(one): one}, size),
        "model-map": lambda: map_chart([one], size),
        "planted": lambda: planted_chart(found, size),
    }


def of_plots(small: Small) -> Outcome:
    """Digests of the charts, and of what the page says: its style and script may change freely."""
    outcome: Outcome = []
    for name, chart in _charts().items():
        outcome += [name, artifact.digest(drawn(chart()))]
    warnings = notes.warnings({"moe": 2.5, "dense": 2.1}, 2.5, {"moe"}, 0.1)
    first = page.First(
        "moe",
        [("Models", ["moe"])],
        Finding("A sentence.", "Its error.", "fve"),
        warnings,
        None,
        ["a"],
        ["b"],
    )
    table = page.table(
        [{"model": "moe", "loss": 0.25, "interval": [0.1, 1e-6]}, {"model": "dense"}]
    )
    whole = page.page(first, {"Numbers": table}, {"moediff": "1"})
    said = re.sub(r"<(style|script)\b.*?</\1>", " ", whole, flags=re.S)
    words = " ".join(re.sub(r"<[^>]*>", " ", said).split())
    return [*outcome, "page", artifact.digest(words)]


def of_budget(small: Small) -> Outcome:
    """Amounts, bytes, and the hours that they take at 1,000 a second, a second before them."""
    tokens = {"train": 2 * 10**9, "fit": 10**9, "validation": 10**8}
    corpus = TINY["corpus"] | {"tokens": tokens, "domains": {"made": {"source": "tales"}}}
    corpus["shard_tokens"] = 80_000  # of tiny ones there would be more than their names count
    config = complete(TINY | {"corpus": corpus}, SCHEMA, PRESETS)

    def rate(work: Callable[[], int]) -> float:
        assert work() > 0
        return 1000.0

    def cost(work: Callable[[int], object], few: int) -> clock.Cost:
        work(few)
        return clock.Cost(1.0, 0.001)

    def taken(work: Callable[[], object]) -> float:
        work()
        return 0.5

    with ExitStack() as patched:
        for module in (rates, rates_together):
            patched.enter_context(mock.patch.object(module, "rate", rate))
            patched.enter_context(mock.patch.object(module, "cost", cost))
        patched.enter_context(mock.patch.object(rates, "taken", taken))
        primary = {"moe": "moe", "dense": "dense", "recipe": "default"}
        estimate = table.estimate(config, CPU, primary)
    return list(flat([estimate["stages"], estimate["hours"], estimate["gigabytes"]]))
