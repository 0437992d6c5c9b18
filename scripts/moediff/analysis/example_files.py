"""Examples of features as they are stored, for whoever looks at them without a dictionary or torch.

Their two lists are JSON text: a flipped byte in a column of lists ends the process of today's reader
instead of raising.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from moediff.core import artifact

LISTS = {"tokens": pl.String, "activations": pl.Float32}


def write(path: Path | str, table: pl.DataFrame, provenance: Mapping[str, Any]) -> None:
    """Write examples whole."""
    text = {name: [json.dumps(row) for row in table[name].to_list()] for name in LISTS}
    artifact.write_parquet(
        path, table.with_columns(**{n: pl.Series(v) for n, v in text.items()}), provenance
    )


def read(path: Path | str) -> pl.DataFrame:
    """Examples as `examples.feature_examples` gives them. Raises DamagedError at a file cut or altered."""
    table = artifact.read_parquet(path)
    return table.with_columns(
        pl.col(name).cast(pl.String).str.json_decode(pl.List(kind))  # no rows have no type
        for name, kind in LISTS.items()
    )
