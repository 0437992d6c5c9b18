"""Rates of what is done with several models or dictionaries at once: reruns, matches, figures, the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from moediff.activations.kept_rows import kept_rows
from moediff.activations.rows import AlignedRows
from moediff.analysis import divergence, matching, moved, panel_loss, similarity, splicing
from moediff.analysis.reruns import Text
from moediff.analysis.sides import Side
from moediff.config import activations
from moediff.config.base import Config
from moediff.config.layout import Fit
from moediff.core.bootstrap import LEAST_GROUPS
from moediff.corpus.token_shards import read_token_shard
from moediff.experts.affinity import feature_affinity, layers_of
from moediff.report import browser, charts, page, theme
from moediff.report.budget import made
from moediff.report.budget.clock import Cost, cost, rate
from moediff.report.budget.made import MadeFit
from moediff.report.budget.rates import ROWS, Reader

# --- by rows -------------------------------------------------------------------------------------


def matches(first: MadeFit, others: Sequence[MadeFit]) -> Cost:
    """Features of one dictionary matched to those of SAEs, by validation rows."""
    saes = [one.dictionary for one in others]

    def work(size: int) -> None:
        sources = [shards for one in (first, *others) for shards in one.rows(size).sources]
        rows = AlignedRows([[shard.path for shard in shards] for shards in sources])
        batch = first.recipe["batch"]
        matching.best_matches(first.dictionary, saes, rows, batch, first.device)

    return cost(work, ROWS)


def distances(one: MadeFit) -> Cost:
    """How far rows of two sources lie apart, by validation rows."""
    return cost(lambda size: moved.moved(one.rows(size), 4096), ROWS)


def similarities(one: MadeFit) -> Cost:
    """How alike sources are, by the rows that are compared."""

    def work(size: int) -> None:
        similarity.similarities(*similarity.sample(one.rows(size)), one.names)

    return cost(work, similarity.ROWS // 8)


def affinities(one: MadeFit, source: int) -> Cost:
    """What firing tells of a source's experts, by validation rows."""

    def work(size: int) -> None:
        rows = one.rows(size)
        layers, batch = layers_of(rows, source), one.recipe["batch"]
        feature_affinity(one.dictionary, rows, source, layers, batch, one.device)

    return cost(work, ROWS)


# --- models run again, by sequences ----------------------------------------------------------------


def _sides(
    fit: Fit, readers: Mapping[str, Reader], config: Config, sequences: int, folder: Path
) -> tuple[list[Side], list[Text]]:
    """The sources of a dictionary, and the made text that each reads."""
    corpus, sides, texts = config["corpus"], [], []
    length, across = corpus["sequence"]["length"], corpus["sequence"]["attend_across_documents"]
    for source in fit.member.sources:
        reader = readers[source.model]
        assert reader.model is not None
        point = reader.points[source.point or next(iter(reader.points))]
        sides.append(Side(source.name, reader.model, point))
        path = made.text(
            folder / f"{source.model}-again.h5", sequences, length, reader.vocabulary, list(corpus["domains"])
        )  # fmt: skip
        shard = read_token_shard(path)
        mask = kept_rows(shard, activations.dropped(config, source.model), across).mask
        texts.append(Text(shard, mask))
    return sides, texts


def splices(
    fit: Fit, one: MadeFit, readers: Mapping[str, Reader], config: Config, folder: Path
) -> Cost:
    """Reconstructions in place of activations, whole and without each class."""
    tied = one.dictionary.shape.tied > 0
    classes = [*(("tied",) if tied else ()), "A-only", "common", "B-only"]
    of = np.arange(one.features) % len(classes)
    deleted = {name: of == number for number, name in enumerate(classes)}
    frozen = config["activations"]["routing"] != "none"
    return _spliced(fit, one, readers, config, folder, {"frozen": frozen, "deleted": deleted})


def panel_losses(
    fit: Fit,
    one: MadeFit,
    readers: Mapping[str, Reader],
    config: Config,
    folder: Path,
    kinds: Mapping[str, Sequence[str]],
) -> Cost:
    """Reconstructions without each group of a panel: all of them, the most that it can take."""
    groups = one.groups[len(next(iter(kinds.values())))]
    deleted, within = panel_loss.deletions(groups)
    own = panel_loss.own_deletions(groups, kinds)
    settings = {"frozen": False, "deleted": deleted, "within": within, "by_group": own}
    return _spliced(fit, one, readers, config, folder, settings)


def _spliced(
    fit: Fit,
    one: MadeFit,
    readers: Mapping[str, Reader],
    config: Config,
    folder: Path,
    settings: Mapping[str, Any],
) -> Cost:
    batch = config["activations"]["batch"]
    few = max(1, batch // 8)
    sides, texts = _sides(fit, readers, config, 4 * few, folder)
    across = config["corpus"]["sequence"]["attend_across_documents"]

    def work(size: int) -> None:
        splicing.splice(
            sides, [texts], one.dictionary, across, size, batch, groups=LEAST_GROUPS, **settings
        )  # fmt: skip

    return cost(work, few)


def divergences(fit: Fit, readers: Mapping[str, Reader], config: Config, folder: Path) -> Cost:
    """Predictions of the two models of a pair held against each other."""
    two = [readers[source.model] for source in fit.member.sources]
    models = [reader.model for reader in two if reader.model is not None]
    corpus, batch = config["corpus"], config["activations"]["batch"]
    length, across = corpus["sequence"]["length"], corpus["sequence"]["attend_across_documents"]
    few = max(1, batch // 8)
    shared = min(reader.vocabulary for reader in two)
    path = made.text(folder / "both.h5", 4 * few, length, shared, list(corpus["domains"]))
    texts = [Text(read_token_shard(path))]
    return cost(lambda size: divergence.divergence(models, texts, across, size, batch), few)


# --- what is drawn, by features ----------------------------------------------------------------------


def figures(fit: Fit, one: MadeFit, config: Config) -> Cost:
    """The figures of a dictionary."""
    return _by_feature(one, lambda name, chart: theme.svg(chart), fit, config)


def chart_files(fit: Fit, one: MadeFit, config: Config, folder: Path) -> Cost:
    """The same of the pair, whose figures are charts of their own: each a page, an SVG and a PNG."""
    kinds = ("html", "svg", "png")

    def save(name: str, chart: alt.TopLevelMixin) -> None:
        theme.save(chart, [folder / f"{name}.{kind}" for kind in kinds])

    return _by_feature(one, save, fit, config)


def _by_feature(
    one: MadeFit, write: Callable[[str, alt.TopLevelMixin], object], fit: Fit, config: Config
) -> Cost:
    name = [fit.member.comparison, fit.member.name, fit.recipe, fit.seed]
    settings = {"drawn": name, "bounds": config["features"]["bounds"]}
    tables = {"features": [one.table], "null_features": []}

    def work() -> int:
        for chart in charts.of_each(len(one.names)):
            write(chart, charts.draw(chart, tables, settings, config["plots"]))
        return one.features

    return Cost(0.0, 1 / rate(work))


def pages(fit: Fit, one: MadeFit) -> Cost:
    """A page with one dictionary to look through."""
    first = page.First(fit.path(), [], None, [], None, [], [])

    def work() -> int:
        table = browser.browser([browser.Browsed(fit.path(), one.table, one.examples)])
        page.page(first, {"Features": table}, {})
        return one.features

    return Cost(0.0, 1 / rate(work))
