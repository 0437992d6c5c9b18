"""A study in a notebook: named sources, aligned rows, their text."""

from __future__ import annotations

from pathlib import Path

import pytest

from moediff.core.errors import UserError
from moediff.study import open_rows


@pytest.mark.parametrize(
    ("sources", "split", "said"),
    [
        ((), "fit", "needs a source"),
        (("moe",), "train", "fit or validation"),
        (("moe.x",), "fit", "a source is written model.seed"),
        (("moe.3",), "fit", r"moe/seed-3/fit: no activation shards; run snakemake"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    tmp_path: Path, sources: tuple, split: str, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_rows(tmp_path, *sources, split=split)
    assert "\n" not in str(caught.value)
