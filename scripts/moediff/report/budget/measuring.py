"""What a config asks for, measured: each model opened once, each size of dictionary fitted once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from moediff.activations import external
from moediff.activations.rows import AlignedRows
from moediff.activations.shards import EXTERNAL as EXTERNAL_POINT
from moediff.config import base, comparisons, models, resources, roles
from moediff.config.base import Config
from moediff.config.kinds import EXTERNAL, TRAINED, kind
from moediff.config.layout import Fit, Source
from moediff.config.rows import row_paths
from moediff.core.errors import UserError
from moediff.models import build, fetching, loading
from moediff.report.budget import rates, rates_together
from moediff.report.budget.clock import Cost, attempt
from moediff.report.budget.made import SOURCE, MadeFit, RowMaker
from moediff.report.budget.rates import Reader

VOCABULARY = 50_257  # assumed when a pretrained tokenizer is named: that of GPT-2
COMPONENTS = "principal_components"
HERE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9  # gigabytes of this machine


def asked(config: Config, primary: Mapping[str, Any]) -> dict[str, list[Fit]]:
    """The dictionaries that each stage of the default targets is about, as rules/ has it."""
    fits = comparisons.fits(config)
    pair = roles.drawn_pair(fits, primary)
    shown = roles.shown(fits, pair)
    of_pair = [pair] if pair else []
    return {
        "dictionary": fits,
        "metrics": fits,
        "deletion": roles.with_sources(fits, 2),
        "panel": roles.panels(config, fits),
        "panel_loss": roles.primary_panels(config, fits, primary) if "corpus" in config else [],
        "examples": [fit for fit in shown if roles.has_text(config, fit)],
        "matching": [fit for fit in of_pair if roles.saes_of(config, fits, fit)],
        "moved": of_pair if roles.share_a_basis(config, pair) else [],
        "similarity": roles.panels(config, fits),
        "affinity": of_pair if roles.routed_sources(config, pair) else [],
        "splicing": [fit for fit in of_pair if roles.has_text(config, fit)],
        "divergence": of_pair if roles.tells_divergence(config, pair) else [],
        "figures": [fit for fit in shown if fit != pair],
        "charts": of_pair,
        "report": shown,
    }


class Study:
    """Rates of a config's models and dictionaries. `primary` are the models and recipe of claims."""

    def __init__(
        self, config: Config, device: torch.device, primary: Mapping[str, Any], folder: Path
    ) -> None:
        self.config, self.device, self.folder = config, device, folder
        self.asked = asked(config, primary)
        self.made: dict[tuple, MadeFit] = {}
        # Of a stage and the sizes of what it works on: seconds by amount, or why they are not known.
        self.costs: dict[tuple, Cost | str] = {}
        corpus = config.get("corpus", {"domains": [SOURCE], "tokenizer": {}})
        self.vocabulary = corpus["tokenizer"].get("train", VOCABULARY)
        read = config["activations"]
        self.rows = RowMaker(
            folder, self.vocabulary, list(corpus["domains"]), read["dtype"], read["chunk_rows"]
        )
        self.readers = {name: self._reader(name) for name in config["models"]}
        self._time_dictionaries()

    # --- models ----------------------------------------------------------------------------------

    def _reader(self, name: str) -> Reader:
        """A model run for a moment, as far as that can be; it stays open only if it is run again."""
        if kind(self.config, name) is EXTERNAL:
            return Reader(external_size(self.config, name)[1])
        reader = Reader(models.model_width(self.config, name))

        def measure() -> None:
            nonlocal reader
            own = kind(self.config, name)
            opened = self._built(name) if own.trained else self._loaded(name)
            reader = rates.open_reader(self.config, name, opened)
            if own is TRAINED:
                rates.measure_training(reader, self.config, name)
            rates.measure_caching(reader, self.config, name, self.folder)

        reader.why = attempt(measure)
        again = [*self.asked["splicing"], *self.asked["panel_loss"]]
        if not any(name in roles.models_in(fit) for fit in again):
            reader.model = None
        return reader

    def _built(self, name: str) -> Callable[[], PreTrainedModel]:
        """What builds a model that is trained here."""
        megabytes = resources.model_mb(self.config, name)
        refuse_too_large("training", f"training '{name}'", megabytes)
        architecture = self.config["models"][name]["train"]
        length = self.config["corpus"]["sequence"]["length"]
        return lambda: build.build(architecture, self.vocabulary, length, 0, 0).to(self.device)  # type: ignore[arg-type]

    def _loaded(self, name: str) -> Callable[[], PreTrainedModel]:
        """What opens a checkpoint as its jobs do. Raises UserError where it is not on this machine."""
        settings = self.config["models"][name]
        place = fetching.here(settings["load"], settings["revision"])
        if place is None:
            raise UserError(
                f"{settings['load']} is not on this machine, and nothing is fetched here"
            )
        files = [place] if place.is_file() else place.glob("*.safetensors")
        megabytes = sum(file.stat().st_size for file in files) / resources.MEGABYTE
        refuse_too_large("loading", f"opening '{name}'", megabytes)
        placed = settings.get("device_map")
        return partial(loading.load, place, settings["dtype"], self.device, placed)

    # --- sizes -----------------------------------------------------------------------------------

    def unknown(self, fit: Fit) -> str | None:
        """Why the sizes of a dictionary are not known; None where they are."""
        for source in fit.member.sources:
            reader = self.readers[source.model]
            if reader.width is None:
                return f"the width of '{source.model}' is not known ({reader.why})"
        return None

    def widths(self, fit: Fit) -> list[int]:
        """Widths of a dictionary's sources, which must be known."""
        found = [self.readers[source.model].width for source in fit.member.sources]
        return [width for width in found if width is not None]

    def _key(self, stage: str, fit: Fit) -> tuple:
        """A stage, and what decides how long it takes a dictionary."""
        views = [source.view for source in fit.member.sources]
        recipe = None if stage == COMPONENTS else fit.recipe
        panel = comparisons.is_panel(self.config, fit.member) and stage in ("panel", "panel_loss")
        kinds = comparisons.kinds(fit.member) if panel else {}
        return stage, recipe, *zip(self.widths(fit), views, strict=True), *map(len, kinds.values())

    def seconds(self, stage: str, fit: Fit, amount: float) -> tuple[float | None, str | None]:
        """Seconds of a stage of a dictionary, or why they are not known."""
        why = self.unknown(fit)
        for name in (stage, "dictionary", "metrics") if why is None else ():
            found = self.costs.get(self._key(name, fit))
            if isinstance(found, Cost) and name == stage:
                return found.seconds(amount), None
            why = why or (found if isinstance(found, str) else None)
        return None, why

    def _rows_of(self, sources: Sequence[Source]) -> Callable[[int], AlignedRows]:
        """Made rows of sources, so many."""

        def rows(count: int) -> AlignedRows:
            paths = []
            for source in sources:
                reader = self.readers[source.model]
                points = list(reader.points)
                point = str(reader.points[source.point or points[0]]) if points else EXTERNAL_POINT
                name = replace(source, view=None).name
                assert reader.width is not None
                path = self.rows.write(name, count, reader.width, point, reader.routing)
                paths.append([path])
            return AlignedRows(paths, None, [source.view for source in sources])

        return rows

    # --- dictionaries ----------------------------------------------------------------------------

    def _time(self, stage: str, fit: Fit, measure: Callable[[], Cost]) -> None:
        """Measure a stage of a dictionary once for its sizes, or keep why it cannot be."""
        key = self._key(stage, fit)

        def taken() -> None:
            self.costs[key] = measure()

        why = None if key in self.costs else attempt(taken)
        if why:
            self.costs[key] = why

    def _time_dictionaries(self) -> None:
        """What is done with one dictionary; the pair first, so that its own models made its rows."""
        for fit in [*self.asked["charts"], *self.asked["dictionary"]]:
            if self.unknown(fit) is None:
                self._time("dictionary", fit, partial(self._fit, fit))
        config, vocabulary = self.config, self.vocabulary
        measures: dict[str, Callable[[Fit, MadeFit], Cost]] = {
            "metrics": lambda fit, one: rates.metrics(one, config),
            "deletion": lambda fit, one: rates.deletions(one),
            "panel": lambda fit, one: rates.panels(one, config, comparisons.kinds(fit.member)),
            "examples": lambda fit, one: rates.example_texts(one, vocabulary),
            "figures": lambda fit, one: rates_together.figures(fit, one, config),
            "charts": lambda fit, one: rates_together.chart_files(fit, one, config, self.folder),
            "report": lambda fit, one: rates_together.pages(fit, one),
            "moved": lambda fit, one: rates_together.distances(one),
            "similarity": lambda fit, one: rates_together.similarities(one),
            "matching": self._matches,
            "splicing": self._splices,
            "divergence": self._divergences,
            "panel_loss": self._panel_losses,
        }
        for stage, measure in measures.items():
            for fit in self.asked[stage]:
                one = self._made(fit)
                if one is not None:
                    self._time(stage, fit, partial(measure, fit, one))
            if stage == "metrics":  # without a table of its features nothing is drawn of it
                failed = {key[1:] for key, found in self.costs.items() if isinstance(found, str)}
                self.made = {k: one for k, one in self.made.items() if k[1:] not in failed}

    def _made(self, fit: Fit) -> MadeFit | None:
        return None if self.unknown(fit) else self.made.get(self._key("dictionary", fit))

    def _fit(self, fit: Fit) -> Cost:
        recipe, sources = self.config["recipes"][fit.recipe], fit.member.sources
        megabytes = 2 * 4 * recipe["features"] * sum(self.widths(fit)) / resources.MEGABYTE
        refuse_too_large("dictionaries", f"a dictionary of recipe '{fit.recipe}'", megabytes)
        rows = self._rows_of(sources)
        speed, dictionary = rates.fitted(recipe, rows(4 * rates.ROWS), self.device)
        taken, baseline = rates.components(recipe, rows)
        self.costs[self._key(COMPONENTS, fit)] = taken
        names = [source.name for source in sources]
        self.made[self._key("dictionary", fit)] = MadeFit(
            names, recipe, rows, self.device, dictionary, baseline
        )
        return Cost(0.0, 1 / speed)

    def _matches(self, fit: Fit, one: MadeFit) -> Cost:
        saes = roles.saes_of(self.config, self.asked["dictionary"], fit)
        found = [self._made(sae) for sae in saes]
        return rates_together.matches(one, [sae for sae in found if sae is not None])

    def _splices(self, fit: Fit, one: MadeFit) -> Cost:
        self._refuse_closed(fit)
        return rates_together.splices(fit, one, self.readers, self.config, self.folder)

    def _divergences(self, fit: Fit, one: MadeFit) -> Cost:
        self._refuse_closed(fit)
        return rates_together.divergences(fit, self.readers, self.config, self.folder)

    def _panel_losses(self, fit: Fit, one: MadeFit) -> Cost:
        self._refuse_closed(fit)
        kinds = comparisons.kinds(fit.member)
        return rates_together.panel_losses(fit, one, self.readers, self.config, self.folder, kinds)

    def _refuse_closed(self, fit: Fit) -> None:
        """Raise UserError where a model of a dictionary could not be opened."""
        for source in fit.member.sources:
            reader = self.readers[source.model]
            if reader.why:
                raise UserError(f"'{source.model}' could not be run: {reader.why}")

    def routed(self) -> list[Source]:
        """Sources of the pair whose experts are joined to its features."""
        pair = next(iter(self.asked["affinity"]), None)
        return roles.routed_sources(self.config, pair)

    def affinity(self, source: Source, amount: int) -> tuple[float | None, str | None]:
        """Seconds of joining a source's experts to the features of the pair, or why they are not known."""
        (fit,) = self.asked["affinity"]
        one, reader = self._made(fit), self.readers[source.model]
        if one is None or reader.why:
            return None, reader.why or self.seconds("dictionary", fit, 0)[1]
        place = fit.member.sources.index(source)
        found: list[Cost] = []
        why = attempt(lambda: found.append(rates_together.affinities(one, place)))
        return (None, why) if why else (found[0].seconds(amount), None)


def refuse_too_large(stage: str, what: str, megabytes: float) -> None:
    """Raise UserError where weights of so many MB are more than a stage can hold here: it would be killed."""
    need = resources.STAGES[stage].weights * megabytes * resources.MEGABYTE / 1e9
    if need > HERE:
        raise UserError(f"{what} takes {need:,.0f} GB of memory, and this machine has {HERE:,.0f}")


def external_size(
    config: Config, model: str, splits: Sequence[str] = base.ROW_SPLITS
) -> tuple[int, int]:
    """Rows over all files of external activations, and their width."""
    array = config["models"][model]["rows"]["array"]
    shapes = [
        external.open_rows(path, array)[0].shape
        for split in splits
        for path in row_paths(config, model, split)
    ]
    return sum(rows for rows, _ in shapes), shapes[0][1]
