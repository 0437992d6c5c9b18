"""Text files of every format, read as a domain; and the one line by which something is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moediff.core.errors import UserError
from moediff.corpus import sources

SPLITS = {"fit": 0.25, "validation": 0.1}
KNOWN_SPLITS = "fttftvttvftv"  # first letters
ROWS = [
    {"text": "The fox ran.", "source": "a.txt#0", "page": 1},
    {"text": "Le renard a filé — vite !", "source": "a.txt#1", "page": 2},
    {"text": "狐は走った。\nそして眠った。", "source": "b.txt#0", "page": 3},
]


def settings(*paths: Path | str, **keys: Any) -> dict:
    """Settings of a `files` domain as a whole config holds them."""
    whole = {"source": "files", "column": "text", "group": None, "group_pattern": None}
    return whole | {"paths": [str(path) for path in paths]} | keys


def read(*paths: Path | str, most_bytes: int | None = None, **keys: Any) -> pl.DataFrame:
    return pl.concat(sources.documents("domain", settings(*paths, **keys), SPLITS, most_bytes))


def jsonl(path: Path, rows: list[dict]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def refused(call: Callable[[], Any]) -> str:
    """The message of the UserError that `call` raises, of which there is one line."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message
