"""Names and places: what a source, a member and a dictionary are called, and where every file lies.

Made and taken apart here alone. A name that is made by one place and read by another grammar
elsewhere is how a panel came to be called by half of a hook point.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from moediff.core.errors import ConfigError, UserError

AT = "@"  # between a model and a hook point, in a comparison and in the name of a source

SHARD = ".zarr.zip"  # how the name of an activation shard ends

# Every path in a folder under results (what lies in it directly has a plain name: fve.json). `{file}` is one
# of several files of a folder.
PATHS = {
    "documents": "corpus/{domain}.parquet",
    "tokenizer": "corpus/tokenizer.json",
    "vocabulary": "corpus/vocabulary.json",
    "tokens": "corpus/{split}/{shard}.h5",
    "retokenised": "retokenised/{model}/{split}/{shard}.h5",
    "ngrams": "models/ngrams.json",
    "model": "models/{model}/seed-{seed}/{file}",
    "trial": "models/{model}/sweep/lr-{rate}.json",
    "best_rate": "models/{model}/sweep/best.json",
    "points": "activations/{model}/seed-{seed}/points.json",
    "activations": f"activations/{{model}}/seed-{{seed}}/{{split}}/{{shard}}{SHARD}",
    "manifest": "activations/{model}/seed-{seed}/{split}.json",
    "moe": "experts/{model}/seed-{seed}/{file}",
    "pruned": "pruned/{model}/seed-{seed}/{score}-{keep}/{file}",
    "baseline": "baselines/{comparison}/{member}/{file}",
    "dictionary": "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/{file}",
    "planted_try": "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/planted/{planted}.json",
    "experts": "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/experts/{source}/{file}",
    "export": "exports/{layout}/{comparison}/{member}/{recipe}/seed-{seed}/{file}",
    "plot": "plots/{chart}.{format}",
    "log": "logs/{job}.log",
    "benchmark": "benchmarks/{job}.tsv",
    "stages": "benchmarks/stages.{format}",
    "events": "tensorboard/{run}/events.out.tfevents.0.moediff",
    "state": "state",
}


def path(kind: str, **values: Any) -> str:
    """A path of PATHS under the results folder; what is not given stays a wildcard of Snakemake's.

    A shard's number may be an int: it is written with five digits.
    """
    if isinstance(values.get("shard"), int):
        values["shard"] = f"{values['shard']:05d}"
    wanted = _wanted(kind)
    if unknown := values.keys() - wanted.keys():
        raise KeyError(f"{kind}: no {', '.join(sorted(unknown))} in {PATHS[kind]}")
    return PATHS[kind].format(**(wanted | values))


@cache
def _wanted(kind: str) -> dict[str, str]:
    """The names in a path of PATHS, each with the wildcard that stands for it."""
    return {name: f"{{{name}}}" for name in re.findall(r"{(\w+)}", PATHS[kind])}


@cache
def _pattern(kind: str) -> re.Pattern[str]:
    parts = re.split(r"{(\w+)}", PATHS[kind])
    for number in range(0, len(parts), 2):
        parts[number] = re.escape(parts[number])
    for number in range(1, len(parts), 2):
        some = {"job": ".+", "run": ".+", "format": "[^/.]+"}.get(parts[number], "[^/]+")
        parts[number] = f"(?P<{parts[number]}>{some})"
    return re.compile(rf"(?:.*/)?{''.join(parts)}")


def parse(kind: str, place: str) -> dict[str, str]:
    """The values of a path that `path` made, wherever the results folder lies.

    Raises UserError for a path of another kind.
    """
    match = _pattern(kind).fullmatch(str(place))
    if match is None:
        raise UserError(f"{place}: not a path like {PATHS[kind]}")
    return match.groupdict()


def run_name(model: str, seed: int | str) -> str:
    """What one training run is called in a message."""
    return f"{model}/seed-{seed}"


def point_name(hook: str, layer: float) -> str:
    """What a hook point is called; its layer is written as in the config."""
    return f"{hook}.{layer}"


def one_of(names: Iterable[str]) -> str:
    """A constraint of a Snakemake wildcard that matches these names only; none at all when there are none.

    Snakemake holds a constraint against the start of a value and never asks for its end, so that `moe`
    would let `moe-step-20` through; a value alone, which has nothing before it, must therefore end too.
    """
    found = "|".join(map(re.escape, names))
    return rf"^(?:{found})$|(?<=.)(?:{found})" if found else "(?!)"


def at_step(model: str, step: int) -> str:
    """What a model is called as it was after an optimizer step: to all but its training another model."""
    return f"{model}-step-{step}"


_STEP = r"(?::step-(?P<step>\d{1,15}))?"
_SIDE = re.compile(rf"(?P<model>[^@:]*)(?:{AT}(?P<point>[^:]*))?{_STEP}")


@dataclass(frozen=True)
class Side:
    """A side of a comparison as a config writes it: `model` or `model@point`, and `:step-500` behind it."""

    model: str
    point: str | None = None  # None: every one
    step: int | None = None  # None: the end

    @classmethod
    def parse(cls, name: str) -> Side:
        """Raises ConfigError for what is none."""
        match = _SIDE.fullmatch(name)
        if match is None:
            raise ConfigError(
                f"comparisons: '{name}': a side is written model, model{AT}hook.layer, model:step-500 or "
                f"model{AT}hook.layer:step-500"
            )
        step = match["step"]
        return cls(match["model"], match["point"] or None, None if step is None else int(step))


def side(name: str) -> tuple[str, str | None]:
    """Model, named by `at_step` where a step is given, and hook point (None: every one) of a side."""
    found = Side.parse(name)
    return found.model if found.step is None else at_step(found.model, found.step), found.point


# model.seed, a view's name after a dot, a hook point after AT. A model's name has no dot, so that the
# first one ends it; the number of a layer may have one.
_LAYER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_SOURCE = re.compile(
    r"(?P<model>[A-Za-z0-9][\w-]*)(?:\.(?P<seed>\d+)(?:\.(?P<view>[a-z]+))?)?"
    rf"(?:{AT}(?P<point>[a-z_]+\.{_LAYER}))?{_STEP}"
)
_RUN = re.compile(
    r"(?P<model>[A-Za-z0-9][\w-]*)\.(?P<seeds>\d+(?:-\d+)?(?:\+\d+(?:-\d+)?)*)(?:\.(?P<view>[a-z]+))?"
    rf"(?:{AT}(?P<point>[a-z_]+\.{_LAYER}))?"
)
_BETWEEN = "_"  # between the sources of a member
# Characters; a folder's name takes 255, and none that was ever written is longer.
LONGEST_MEMBER = 245


def _source_name(model: str, seeds: str, view: str | None, point: str | None) -> str:
    seen = f"{model}.{seeds}" + (f".{view}" if view else "")
    return seen + (f"{AT}{point}" if point else "")


@dataclass(frozen=True)
class Source:
    """One side of a dictionary: a model of one seed at a hook point (None: the only one), and how a
    control shows its rows (None: as they are)."""

    model: str
    seed: int
    point: str | None = None
    view: str | None = None

    @property
    def name(self) -> str:
        return _source_name(self.model, str(self.seed), self.view, self.point)

    @classmethod
    def parse(cls, name: str, seed: int | None = None) -> Source:
        """The source of a name, or of a config's side; `seed` where it says none. Raises UserError."""
        match = _SOURCE.fullmatch(name)
        if match is None or (match["seed"] is None and seed is None):
            raise UserError(
                f"'{name}': a source is written model.seed, or model.seed{AT}hook.layer"
            )
        number = int(match["seed"]) if match["seed"] is not None else int(seed or 0)
        step = match["step"]
        model = match["model"] if step is None else at_step(match["model"], int(step))
        return cls(model, number, match["point"], match["view"])


def _runs(sources: Iterable[Source]) -> Iterator[str]:
    """Names of sources, those of one model, view and point that follow each other as one: 0-3+7."""
    for one, group in itertools.groupby(sources, key=lambda source: replace(source, seed=0)):
        runs: list[list[int]] = []
        for source in group:
            if runs and source.seed == runs[-1][-1] + 1:
                runs[-1] = [runs[-1][0], source.seed]
            else:
                runs.append([source.seed])
        seeds = "+".join("-".join(map(str, run)) for run in runs)
        yield _source_name(one.model, seeds, one.view, one.point)


def _sources_of(run: re.Match[str]) -> list[Source]:
    """The sources of a name that `_runs` made."""
    ends = [[int(end) for end in part.split("-")] for part in run["seeds"].split("+")]
    seeds = [seed for end in ends for seed in range(end[0], end[-1] + 1)]
    return [Source(run["model"], seed, run["point"], run["view"]) for seed in seeds]


@dataclass(frozen=True)
class Member:
    """The sources of one dictionary of a comparison, in order: the first is A, the second B."""

    comparison: str
    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """Its sources' names in order; where that is too long for a folder, seeds of a model that
        follow each other stand together: `moe.0-19_dense.0-3+7`."""
        whole = _BETWEEN.join(source.name for source in self.sources)
        return whole if len(whole) <= LONGEST_MEMBER else _BETWEEN.join(_runs(self.sources))

    @classmethod
    def parse(cls, comparison: str, name: str) -> Member:
        """The member of a name that `name` made: the inverse, whatever underscores its models have.

        Of all ways to cut the name at underscores, one gives sources alone: a source has a dot
        before its seeds, and nothing but a view or a point after them. Raises UserError when none does.
        """
        sources: list[Source] = []
        start = 0
        pieces = name.split(_BETWEEN)
        while start < len(pieces):
            for stop in range(start + 1, len(pieces) + 1):
                piece = _BETWEEN.join(pieces[start:stop])
                match = _RUN.fullmatch(piece)
                if match is not None:
                    sources += _sources_of(match)
                    start = stop
                    break
            else:
                raise UserError(f"'{name}': not the name of a dictionary's sources")
        return cls(comparison, tuple(sources))


@dataclass(frozen=True)
class Fit:
    """One dictionary: a member of a comparison, a recipe and a seed."""

    member: Member
    recipe: str
    seed: int

    @property
    def place(self) -> dict[str, Any]:
        """What the paths of its files have in common, by the names in PATHS."""
        return {
            "comparison": self.member.comparison,
            "member": self.member.name,
            "recipe": self.recipe,
            "seed": self.seed,
        }

    def path(self, file: str = "", source: str | None = None) -> str:
        """A file of its folder, or of `experts/{source}` in it; the folder's name without one."""
        if source is not None:
            return path("experts", **self.place, source=source, file=file)
        return path("dictionary", **self.place, file=file).rstrip("/")
