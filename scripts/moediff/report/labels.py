"""What a dictionary is called in every chart and table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from moediff.config.layout import Member, Source


def dictionary_label(comparison: str, member: str, recipe: str, seed: int | str) -> str:
    """What a dictionary is called in every chart and table: two never share a name."""
    return f"{comparison}: {member_label(member)}, {recipe}, seed {seed}"


def label_of(record: Mapping[str, Any]) -> str:
    """The same of a record or a path taken apart that says comparison, member, recipe and seed."""
    return dictionary_label(*(record[key] for key in ("comparison", "member", "recipe", "seed")))


def member_label(member: str) -> str:
    """The sources of a member; of a panel, seeds of one model that follow each other as a range."""
    sources = Member.parse("", member).sources
    runs: list[list[Source]] = []
    for source in sources:
        follows = runs and replace(source, seed=source.seed - 1) == runs[-1][-1]
        if len(sources) > 2 and follows:
            runs[-1].append(source)
        else:
            runs.append([source])
    return " + ".join(source_range(run) for run in runs)


def side_names(sources: Sequence[Source]) -> tuple[str, ...]:
    """What the sources of one dictionary are called beside each other: by model alone where that tells
    them apart and none is a control's view, else by their whole names."""
    models = [source.model for source in sources]
    plain = not any(source.view for source in sources) and len(set(models)) == len(models)
    return tuple(models) if plain else tuple(source.name for source in sources)


def sides_of(member: str) -> tuple[str, ...]:
    """`side_names` of the sources of a member, by its name."""
    return side_names(Member.parse("", member).sources)


def class_names(sides: Sequence[str]) -> dict[str, str]:
    """Classes of features by the names of two sides, as charts and tables show them; of others none."""
    if len(sides) != 2:
        return {}
    return {"A-only": f"only {sides[0]}", "B-only": f"only {sides[1]}"}


def source_range(run: Sequence[Source]) -> str:
    """What sources of one model are called whose seeds follow each other: `moe.0-3`."""
    first, last = run[0], run[-1]
    if first == last:
        return first.name
    seen = first.name.removeprefix(Source(first.model, first.seed).name)
    return f"{first.model}.{first.seed}-{last.seed}{seen}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence: all of them, or the first and how many more."""
    shown = list(names[:most]) + ([f"{len(names) - most} more"] if len(names) > most else [])
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def percent(share: float, digits: int = 1) -> str:
    """A share as text."""
    return f"{100 * share:.{digits}f} %"


def labelled(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with what their dictionary is called."""
    named = rows.select("comparison", "member", "recipe", "seed").iter_rows()
    return rows.with_columns(pl.Series("dictionary", [dictionary_label(*row) for row in named]))
