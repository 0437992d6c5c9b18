"""What a dictionary is called in every chart and table."""

from __future__ import annotations

import re

import polars as pl

# One source in the name of a member: its model (whose name may hold `_`), its seed, its view and point.
SOURCE = re.compile(r"([\w-]+)\.(\d+)((?:\.[a-z]+)?(?:@[a-z_]+\.\d+)?)(?:_|$)")


def dictionary_label(comparison: str, member: str, recipe: str, seed: int | str) -> str:
    """What a dictionary is called in every chart and table: two never share a name."""
    return f"{comparison}: {member_label(member)}, {recipe}, seed {seed}"


def member_label(member: str) -> str:
    """The sources of a member; of a panel, seeds of one model that follow each other as a range."""
    runs: list[tuple[str, int, int, str]] = []  # model, first and last seed, view and point
    sources = SOURCE.findall(member)
    for model, number, seen in sources:
        seed = int(number)
        if len(sources) > 2 and runs and runs[-1] == (model, runs[-1][1], seed - 1, seen):
            runs[-1] = (model, runs[-1][1], seed, seen)
        else:
            runs.append((model, seed, seed, seen))
    return " + ".join(
        f"{model}.{first}{f'-{last}' if last > first else ''}{seen}"
        for model, first, last, seen in runs
    )


def labelled(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with what their dictionary is called."""
    named = rows.select("comparison", "member", "recipe", "seed").iter_rows()
    return rows.with_columns(pl.Series("dictionary", [dictionary_label(*row) for row in named]))
