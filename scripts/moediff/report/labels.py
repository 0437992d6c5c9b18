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


def source_range(run: Sequence[Source]) -> str:
    """What sources of one model are called whose seeds follow each other: `moe.0-3`."""
    first, last = run[0], run[-1]
    if first == last:
        return first.name
    seen = first.name.removeprefix(Source(first.model, first.seed).name)
    return f"{first.model}.{first.seed}-{last.seed}{seen}"


def labelled(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with what their dictionary is called."""
    named = rows.select("comparison", "member", "recipe", "seed").iter_rows()
    return rows.with_columns(pl.Series("dictionary", [dictionary_label(*row) for row in named]))
