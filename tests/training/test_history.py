"""Histories: one long table, and the wide tables of models trained earlier."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from moediff.core import artifact
from moediff.training import history

WIDE = {
    "step": pl.Int64, "tokens": pl.Int64, "split": pl.String, "domain": pl.String,
    "cross_entropy": pl.Float64, "balance_loss": pl.Float64, "learning_rate": pl.Float64,
}  # fmt: skip


def wide(balance: tuple[float, float]) -> pl.DataFrame:
    """Two points of a model as they were written earlier."""
    rows = [
        (step, tokens, split, domain, loss + offset, of_split, rate)
        for step, tokens, rate, loss in ((5, 640, 0.01, 4.0), (10, 1280, 0.001, 3.0))
        for split, of_split in zip(("train", "validation"), balance, strict=True)
        for domain, offset in (("all", 0.5), ("code", 0.25), ("tales", 0.75))
    ]
    return pl.DataFrame(rows, schema=WIDE, orient="row")


def long(balance: tuple[float, float] | None) -> pl.DataFrame:
    """The same two points as they are written now."""
    rows = []
    for step, tokens, rate, loss in ((5, 640, 0.01, 4.0), (10, 1280, 0.001, 3.0)):
        rows += history.schedule_rows(step, tokens, rate)
        for split, of_split in zip(("train", "validation"), balance or (0, 0), strict=True):
            values = [("all", "cross_entropy", loss + 0.5), ("code", "cross_entropy", loss + 0.25),
                      ("tales", "cross_entropy", loss + 0.75)]  # fmt: skip
            values += [("all", "balance", of_split)] if balance else []
            rows += [{"step": step, "split": split, "domain": domain, "name": name, "value": value}
                     for domain, name, value in values]  # fmt: skip
    return pl.DataFrame(rows, schema=history.COLUMNS)


@pytest.mark.parametrize("balance", [None, (2.5, 2.25)], ids=["dense", "moe"])
def test_the_wide_table_of_earlier_models_is_read_as_the_long_one(balance, tmp_path: Path) -> None:
    by = ["step", "split", "domain", "name"]
    artifact.write_parquet(tmp_path / "wide.parquet", wide(balance or (0.0, 0.0)), {})
    artifact.write_parquet(tmp_path / "long.parquet", long(balance), {})
    old, new = (history.read(tmp_path / f"{name}.parquet") for name in ("wide", "long"))
    assert new.equals(long(balance))
    assert old.sort(by).equals(new.sort(by))
    assert list(history.final_losses(old)) == list(history.final_losses(new))


def test_final_losses_are_those_of_validation_at_the_last_step() -> None:
    wanted = {"all": 3.5, "code": 3.25, "tales": 3.75}
    assert history.final_losses(long((2.5, 2.25))) == wanted
    assert history.final_losses(history.as_long(wide((2.5, 2.25)))) == wanted


def test_the_learning_curve_is_validation_loss_by_tokens() -> None:
    curve = history.learning_curve(long(None))
    wanted = pl.DataFrame({"tokens": [640, 1280], "cross_entropy": [4.5, 3.5]})
    assert curve.equals(wanted)
    assert history.learning_curve(history.as_long(wide((0.0, 0.0)))).equals(wanted)
