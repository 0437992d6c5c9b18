"""Claims that change once numbers can be seen make what they say exploratory."""

from __future__ import annotations

from pathlib import Path

import pytest

from moediff.claims.fixing import MARK, exploratory, fix
from moediff.claims.reading import DICTIONARIES, EXPERTS
from moediff.config.layout import Fit, Member, Source, path
from moediff.core import artifact
from moediff.core.errors import UserError

UNKNOWN = "it is not known whether the claims were fixed before their numbers could be seen"
CHANGED = "the claims changed after their numbers could be seen"


def measure(results: Path) -> None:
    fit_of = Fit(Member("pairs", (Source("moe", 0), Source("dense", 1))), "default", 0)
    artifact.write_json(results / fit_of.path("metrics.json"), {})


def test_claims_are_free_until_a_dictionary_is_measured(tmp_path: Path) -> None:
    fix(tmp_path, {DICTIONARIES: "one"})
    fix(
        tmp_path, {DICTIONARIES: "two"}
    )  # models may be trained by now, but no dictionary was measured
    measure(tmp_path)
    assert exploratory(tmp_path, "two") is None
    assert exploratory(tmp_path, "one") == CHANGED


def test_a_change_after_that_is_exploratory_until_it_is_taken_back(tmp_path: Path) -> None:
    fix(tmp_path, {DICTIONARIES: "one"})
    measure(tmp_path)
    fix(tmp_path, {DICTIONARIES: "two"})  # the next run
    assert exploratory(tmp_path, "two") == CHANGED
    fix(tmp_path, {DICTIONARIES: "one"})
    assert exploratory(tmp_path, "one") is None


def test_results_measured_before_there_was_a_note_are_not_known_to_be_confirmatory(
    tmp_path: Path,
) -> None:
    measure(tmp_path)
    assert exploratory(tmp_path, "one") == UNKNOWN
    fix(tmp_path, {DICTIONARIES: "one"})
    assert exploratory(tmp_path, "one") == UNKNOWN


def test_a_note_that_is_damaged_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / MARK).write_text("{")
    with pytest.raises(UserError, match=r"claims-fixed\.json"):
        exploratory(tmp_path, "one")


@pytest.mark.parametrize("file", ["routing.json", "lens.parquet", "fewer_experts.parquet"])
def test_claims_about_experts_are_free_until_the_experts_of_an_moe_are_measured(
    tmp_path: Path, file: str
) -> None:
    fix(tmp_path, {DICTIONARIES: "a", EXPERTS: "one"})
    measure(tmp_path)  # a dictionary, which is not what they are about
    fix(tmp_path, {DICTIONARIES: "b", EXPERTS: "two"})
    assert exploratory(tmp_path, "a") is None
    assert exploratory(tmp_path, "two", EXPERTS) is None
    artifact.write_json(tmp_path / path("moe", model="moe", seed="3", file=file), {})
    fix(tmp_path, {DICTIONARIES: "b", EXPERTS: "three"})
    assert exploratory(tmp_path, "two", EXPERTS) is None
    assert exploratory(tmp_path, "three", EXPERTS) == CHANGED


def test_experts_measured_under_a_note_that_knew_none_are_not_known_to_be_confirmatory(
    tmp_path: Path,
) -> None:
    fix(tmp_path, {DICTIONARIES: "a"})  # as older versions did
    artifact.write_json(tmp_path / path("moe", model="moe", seed="0", file="lens.parquet"), {})
    fix(tmp_path, {DICTIONARIES: "a", EXPERTS: "one"})
    assert exploratory(tmp_path, "one", EXPERTS) == UNKNOWN
