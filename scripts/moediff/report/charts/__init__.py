"""Every chart: its title, the tables that it needs, and where it is drawn.

A chart is a function of its name in a module of this package. It takes the tables that the chart needs,
the settings of the study and a size, and gives the chart; rules/inputs/report.smk says which files the
tables are. The list is read by the Snakefile and by the page, so it imports neither Altair nor polars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

    from moediff.report.theme import Size

Tables = Mapping[
    str, Sequence[Any]
]  # by name: data frames of Parquet files, dictionaries of JSON files


@dataclass(frozen=True)
class Chart:
    """What is known of a chart before it is drawn."""

    title: str  # of its section on the page
    module: str  # of this package
    needs: tuple[str, ...]  # tables without which there is no such chart
    also: tuple[str, ...] = ()  # tables that it shows where the study has them
    job: str = "dictionaries"  # charts of one job are drawn by one process: most of it is starting
    on_page: bool = True  # and so drawn by `all`
    # Of one dictionary, the first pair: the page has it among that one's figures.
    of_one: bool = False
    sources: int | None = None  # any other dictionary over so many (0: any number) has it there too


CHARTS = {
    "panel": Chart(
        "Features of one kind of model alone, under true and other labels",
        "panel", ("panels",), job="panels",
    ),
    "splits": Chart(
        "Kinds among all splits of the models, by what explained variance is spent on",
        "kinds", ("kinds",), job="panels",
    ),
    "model-map": Chart(
        "The models by what their explained variance is spent on", "kinds", ("kinds",), job="panels",
    ),
    "training": Chart("Training", "training", ("histories", "ngrams"), job="training"),
    "fve": Chart("Variance explained", "dictionaries", ("fve",)),
    "frontier": Chart("Variance explained against L0", "dictionaries", ("fve",)),
    "classes": Chart("Classes, beside the error rates of their rule", "classes", ("classes",)),
    "relative-norm": Chart(
        "Relative decoder norm", "features", ("features",), also=("null_features",), of_one=True,
        sources=2,
    ),
    "density": Chart("Density by class", "features", ("features",), of_one=True, sources=0),
    "scaling": Chart("Latent scaling", "features", ("features",), of_one=True, sources=2),
    "domains": Chart(
        "Loss with reconstructions in place, by domain", "splicing", ("splicing",), job="models",
        of_one=True,
    ),
    "affinity": Chart(
        "Experts and features, within token id", "experts", ("features", "affinity"), job="models",
        of_one=True,
    ),
    "specialisation": Chart(
        "Experts by domain", "moe_lens", ("shares", "moe_record"), job="moe_lens", on_page=False,
    ),
    "expert-cosine": Chart(
        "What one expert says of all", "moe_lens", ("lens",), job="moe_lens", on_page=False,
    ),
    "fewer-experts": Chart(
        "Fewer experts a token", "moe_lens", ("fewer_experts",), job="moe_lens", on_page=False,
    ),
    "pruning": Chart("Experts left out", "moe_lens", ("prune",), job="moe_lens", on_page=False),
    "planted": Chart(
        "Planted truth", "synthetic", ("planted",), job="planted", on_page=False,
    ),
}  # fmt: skip


def of_each(sources: int) -> list[str]:
    """Charts that every dictionary over so many sources has."""
    return [name for name, chart in CHARTS.items() if chart.sources in (0, sources)]


def open_tables(files: Mapping[str, Sequence[Path | str]]) -> dict[str, list[Any]]:
    """The tables of charts, by name, from their files."""
    from moediff.core import artifact

    reader = {".json": artifact.read_json, ".parquet": artifact.read_parquet}
    return {
        name: [reader[Path(path).suffix](path) for path in paths] for name, paths in files.items()
    }


def draw(name: str, tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.TopLevelMixin:
    """The chart of that name.

    `settings` are `drawn`, the dictionary whose features are looked at as (comparison, member, recipe,
    seed), `bounds` of the relative norm of common features, `histories`, the (model, seed) of each,
    `routed`, the source of each table of affinity, and `moe`, the (model, seed) whose experts are looked at.
    """
    module = import_module(f"{__name__}.{CHARTS[name].module}")
    return getattr(module, name.replace("-", "_"))(tables, settings, size)
