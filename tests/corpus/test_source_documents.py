"""Documents: one split a group, duplicates, what is passed over and cut off."""

import hashlib
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from documented import KNOWN_SPLITS, ROWS, SPLITS, jsonl, read, refused, settings
from moediff.corpus import sources
from moediff.corpus.sources import Document, assign_split


def test_the_split_of_a_group_is_where_its_hash_falls() -> None:
    for group in ("alpha", "bêta", "", "a/b.py", "tale/0/17"):
        point = int(hashlib.sha256(group.encode()).hexdigest()[:16], 16) / 16**16
        expected = "validation" if point < 0.1 else "fit" if point < 0.35 else "train"
        assert assign_split(group, **SPLITS) == expected


def test_known_splits_never_move() -> None:
    # Written down: a change here would mix what earlier runs held out with what they learnt from.
    found = [assign_split(f"group {i}", **SPLITS)[0] for i in range(12)]
    assert "".join(found) == KNOWN_SPLITS


def test_shares_of_the_groups_are_near_those_asked() -> None:
    found = [assign_split(f"g{i}", fit=0.2, validation=0.05) for i in range(20_000)]
    assert found.count("fit") / 20_000 == pytest.approx(0.2, abs=0.01)  # 3.5 standard errors
    assert found.count("validation") / 20_000 == pytest.approx(0.05, abs=0.006)


def test_a_group_is_in_one_split_whatever_stands_beside_it(tmp_path: Path) -> None:
    rows = [
        {"text": f"text {group} {part}", "source": f"book {group}"}
        for group in range(500)
        for part in range(4)
    ]
    random.Random(0).shuffle(rows)
    whole = read(jsonl(tmp_path / "whole.jsonl", rows), group="source")
    assert len(whole) == 2000
    by_group = whole.group_by("group").agg(pl.col("split").n_unique().alias("n"), pl.len())
    assert by_group["n"].to_list() == [1] * 500
    assert by_group["len"].to_list() == [4] * 500
    shares = {split: (whole["split"] == split).mean() for split in ("fit", "validation")}
    assert shares["fit"] == pytest.approx(0.25, abs=0.06)  # three standard errors of 500 groups
    assert shares["validation"] == pytest.approx(0.1, abs=0.04)

    some = jsonl(tmp_path / "some.jsonl", list(reversed(rows[:300])))  # other file, order, company
    again = read(some, group="source")
    splits = dict(whole.select("group", "split").iter_rows())
    assert {group: splits[group] for group in again["group"]} == dict(
        again.select("group", "split").iter_rows()
    )


def test_without_a_group_every_row_is_its_own(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    frame = read(path)
    assert frame["group"].to_list() == [f"{path}#{i}" for i in range(3)]
    assert frame["split"].to_list() == [assign_split(g, **SPLITS) for g in frame["group"]]


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (None, ["a.txt#0", "a.txt#1", "b.txt#0"]),
        ("^([^#]*)", ["a.txt", "a.txt", "b.txt"]),
        (r"#\d+", ["#0", "#1", "#0"]),  # without parentheses: all that it finds
        (r"\.(t)(x)", ["t", "t", "t"]),  # the first of two
    ],
)
def test_group_column_and_pattern(tmp_path: Path, pattern: str | None, groups: list) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    frame = read(path, group="source", group_pattern=pattern)
    assert frame["group"].to_list() == groups
    assert frame["source"].to_list() == ["a.txt#0", "a.txt#1", "b.txt#0"]


def test_a_group_that_is_a_number(tmp_path: Path) -> None:
    frame = read(jsonl(tmp_path / "a.jsonl", ROWS), group="page")
    assert frame["group"].to_list() == ["1", "2", "3"]


# --- documents -------------------------------------------------------------------------------


def test_exact_duplicates_are_dropped_and_the_first_is_kept(tmp_path: Path) -> None:
    texts = ["one", "two", "one", "One", "two ", "two"]
    path = jsonl(tmp_path / "a.jsonl", [{"text": t, "source": str(i)} for i, t in enumerate(texts)])
    frame = read(path, group="source")
    assert frame["text"].to_list() == ["one", "two", "One", "two "]
    assert frame["source"].to_list() == ["0", "1", "3", "4"]
    assert frame["document"].n_unique() == 4


def test_the_id_of_a_document_follows_from_its_text_alone(tmp_path: Path) -> None:
    first = read(jsonl(tmp_path / "a.jsonl", ROWS))
    again = read(jsonl(tmp_path / "b.jsonl", ROWS[::-1]), group="source")
    ids = dict(first.select("text", "document").iter_rows())
    assert ids == dict(again.select("text", "document").iter_rows())
    assert all(re.fullmatch("[0-9a-f]{15}", identity) for identity in ids.values())


def test_empty_rows_are_passed_over(tmp_path: Path) -> None:
    rows = [{"text": "  \n"}, {"text": "word"}, {"text": ""}]
    assert read(jsonl(tmp_path / "a.jsonl", rows))["text"].to_list() == ["word"]


def test_reading_stops_after_most_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def endless() -> Iterator[Document]:
        for number in itertools.count():
            given.append(number)
            yield Document(f"{number:04}éé", str(number), str(number))  # 8 bytes, 6 characters

    monkeypatch.setitem(sources.TEXT_SOURCES, "stdlib", endless)
    for most, count in ((80, 10), (81, 11), (1, 1)):
        given.clear()
        frame = pl.concat(sources.documents("domain", {"source": "stdlib"}, SPLITS, most))
        assert (len(frame), len(given)) == (count, count)


def test_modules_can_be_left_out_of_the_standard_library() -> None:
    def names(**keys: Any) -> set[str]:
        frame = pl.concat(sources.documents("code", {"source": "stdlib"} | keys, SPLITS, None))
        return set(frame["source"])

    every, some = names(longest=200), names(longest=200, skip=["encodings/*", "stringprep.py"])
    left = {name for name in every if name.startswith("encodings/") or name == "stringprep.py"}
    assert len(left) > 50
    assert some.isdisjoint(left)
    assert "argparse.py" in some


def test_long_documents_are_cut_off_and_short_ones_are_not(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "abcdéf"}, {"text": "abcdéfgh"}, {"text": "xy"}])
    assert read(path)["text"].to_list() == ["abcdéf", "abcdéfgh", "xy"]
    cut = read(path, longest=5)
    assert cut["text"].to_list() == ["abcdé", "xy"]  # two that begin alike are one
    assert cut["document"].to_list() == [sources.document_id(text) for text in ("abcdé", "xy")]
    assert "longest" not in settings(path)


def test_bytes_of_duplicates_do_not_count(tmp_path: Path) -> None:
    rows = [{"text": "same"}] * 50 + [{"text": "next"}, {"text": "last"}]
    frame = read(jsonl(tmp_path / "a.jsonl", rows), most_bytes=8)
    assert frame["text"].to_list() == ["same", "next"]


def test_a_domain_without_text(tmp_path: Path) -> None:
    message = refused(lambda: read(jsonl(tmp_path / "a.jsonl", [{"text": " "}])))
    assert "domain 'domain'" in message
    (tmp_path / "empty.txt").touch()
    assert "gave no text at all" in refused(lambda: read(tmp_path / "empty.txt"))
