"""Charts are read as they were drawn, or named."""

from __future__ import annotations

from pathlib import Path

import pytest

from moediff.core.errors import DamagedError
from moediff.report import svg

DRAWN = '<svg xmlns="http://www.w3.org/2000/svg"><text>0.966 \u00e9</text></svg>'


def test_no_flipped_bit_of_a_chart_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "fve.svg"
    path.write_text(svg.marked(DRAWN), encoding="utf-8")
    assert svg.read(path) == DRAWN
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=r"fve\.svg"):
            svg.read(path)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedError, match=r"fve\.svg"):
            svg.read(path)


def test_a_chart_of_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "fve.svg"
    path.write_text(DRAWN, encoding="utf-8")
    assert svg.read(path) == DRAWN
