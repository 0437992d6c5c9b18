"""Sources of text: every format, one split a group, and one line for each way to be wrong."""

import gzip
import hashlib
import itertools
import json
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from moediff.core.errors import UserError
from moediff.corpus import sources
from moediff.corpus.sources import Document, assign_split

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
    return sources.documents("domain", settings(*paths, **keys), SPLITS, most_bytes)


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


# --- splits ----------------------------------------------------------------------------------


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
        frame = sources.documents("domain", {"source": "stdlib"}, SPLITS, most)
        assert (len(frame), len(given)) == (count, count)


def test_modules_can_be_left_out_of_the_standard_library() -> None:
    def names(**keys: Any) -> set[str]:
        frame = sources.documents("code", {"source": "stdlib"} | keys, SPLITS, None)
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


# --- files -----------------------------------------------------------------------------------


def written(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pl.DataFrame(ROWS).write_parquet(path)
        return path
    jsonl(path, ROWS)
    if kind.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "json", "json.gz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    frame = read(path, group="source", group_pattern="^([^#]*)")
    assert frame["text"].to_list() == [row["text"] for row in ROWS]
    assert frame["group"].to_list() == ["a.txt", "a.txt", "b.txt"]
    assert frame.columns == ["text", "source", "document", "group", "split"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_another_column(tmp_path: Path, kind: str) -> None:
    frame = read(written(tmp_path, kind), column="source")
    assert frame["text"].to_list() == ["a.txt#0", "a.txt#1", "b.txt#0"]


def test_a_text_file_is_one_document_and_one_group(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_bytes(f"text of {name}\r\n狐は走った\n".encode())
    frame = read(tmp_path / "*.txt")
    assert frame["text"].to_list() == [f"text of {n}\r\n狐は走った\n" for n in "ab"]
    assert frame["group"].to_list() == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]


def test_patterns_are_read_in_order_and_folders_below_with_two_stars(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("z.txt", "deep/b.txt", "deep/er/a.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    frame = read(tmp_path / "z.txt", tmp_path / "**" / "*.txt")
    assert frame["text"].to_list() == ["z.txt", "deep/b.txt", "deep/er/a.txt"]


def test_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "one"}\n\n  \n{"text": "two"}', encoding="utf-8")
    assert read(path)["text"].to_list() == ["one", "two"]


def test_a_pattern_that_matches_nothing(tmp_path: Path) -> None:
    pattern = tmp_path / "*.jsonl"
    assert f"no file matches '{pattern}'" in refused(lambda: read(pattern))


@pytest.mark.parametrize("key", ["column", "group"])
def test_a_missing_column_of_parquet_names_those_that_are_there(tmp_path: Path, key: str) -> None:
    path = written(tmp_path, "parquet")
    message = refused(lambda: read(path, **{key: "body"}))
    assert message.startswith(f"{path}: no column 'body'")
    assert "text, source, page" in message


def test_a_missing_field_of_a_json_line_names_the_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*ROWS, {"body": "x", "source": "c"}])
    message = refused(lambda: read(path))
    assert message.startswith(f"{path}#3: no text under 'text'")
    assert "body, source" in message
    message = refused(lambda: read(jsonl(path, [{"text": "x"}]), group="source"))
    assert message.startswith(f"{path}#0: no value under the group 'source'")


@pytest.mark.parametrize("value", [None, 5, ["x"], True])
def test_a_row_without_text(tmp_path: Path, value: Any) -> None:
    path = jsonl(tmp_path / "a.jsonl", [ROWS[0], {"text": value}])
    assert refused(lambda: read(path)).startswith(f"{path}#1: no text under 'text'")


def test_a_null_in_a_column_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": ["x", None]}).write_parquet(path)
    assert refused(lambda: read(path)).startswith(f"{path}#1: no text under 'text'")


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz"])
def test_bad_json_is_named_by_its_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    data = b'{"text": "one"}\n\n{"text": "two",}\n'
    path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    assert refused(lambda: read(path)).startswith(f"{path}:3: not JSON")


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("une fée".encode("latin-1"))
    message = refused(lambda: read(path))
    assert message.startswith(f"{path}: not UTF-8")
    assert "byte 5 is 0xe9" in message


def test_a_json_line_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"text": "fée"}'.encode("latin-1"))
    message = refused(lambda: read(path))
    assert message.startswith(f"{path}")
    assert "0xe9" in message


def test_a_file_that_is_not_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("text\nno parquet at all\n", encoding="utf-8")
    assert refused(lambda: read(path)).startswith(f"{path}: not a parquet file")


def test_a_group_pattern_that_finds_nothing(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    message = refused(lambda: read(path, group="source", group_pattern="^b"))
    assert "'^b' finds nothing in 'a.txt#0'" in message


# --- source code and docstrings --------------------------------------------------------------

LONG = " ".join(["It explains at length what the thing is good for."] * 5)
MODULE = f'''"""Module. {LONG}"""

raise RuntimeError("imported")


class Shelf:
    """Class. {LONG}"""

    def put(self):
        """Method. {LONG}

            Indented.
        """

        def inner():
            """Inner. {LONG}"""

    async def wait(self):
        """Too short."""


def bare():
    text = """Not a docstring. {LONG}"""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an installed package that cannot be imported."""
    root = tmp_path / "unimportable_shelf"
    for name in ("core.py", "tests/test_core.py", "sub/old.py", "sub/broken.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(MODULE.replace("Module.", f"{name}."), encoding="utf-8")
    (root / "__init__.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    (root / "sub/old.py").write_bytes(f'# caf\xe9\n"""{LONG}"""'.encode("latin-1"))
    (root / "sub/broken.py").write_text(f'"""{LONG}"""\nprint "two"\n', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return root.name


def test_docstrings_are_read_from_a_package_that_is_never_imported(package: str) -> None:
    keys = {"source": "docstrings", "packages": [package]}
    frame = sources.documents("science", keys, SPLITS, None)
    module = f"{package}/core.py"
    assert frame["source"].to_list() == [
        f"{module}#module", f"{module}#Shelf", f"{module}#put", f"{module}#inner",
    ]  # fmt: skip
    assert frame["group"].to_list() == [module] * 4
    assert frame["text"].to_list() == [
        f"core.py. {LONG}",
        f"Class. {LONG}",
        f"Method. {LONG}\n\nIndented.",
        f"Inner. {LONG}",
    ]
    assert package not in sys.modules


def test_marks_and_half_characters_of_source_files(package: str, tmp_path: Path) -> None:
    root = tmp_path / package
    (root / "marked.py").write_bytes(b"\xef\xbb\xbf" + f'"""Marked. {LONG}"""\n'.encode())
    half = '"""Half \\ud800. ' + LONG + '"""\n'
    (root / "half.py").write_text(half, encoding="utf-8")
    texts = {document.source: document.text for document in sources.docstrings([package])}
    assert texts[f"{package}/marked.py#module"] == f"Marked. {LONG}"
    assert f"{package}/half.py#module" not in texts


def test_docstrings_of_a_package_that_is_there() -> None:
    found = {document.source: document.text for document in sources.docstrings(["json"])}
    assert found["json/__init__.py#module"].startswith("JSON (JavaScript Object Notation)")
    assert found["json/decoder.py#JSONDecoder"].startswith("Simple JSON <")
    assert min(map(len, found.values())) >= 200


def test_docstrings_of_a_package_that_is_not_there() -> None:
    message = refused(lambda: list(sources.docstrings(["json", "no_such_package"])))
    assert "no package (a folder of modules) 'no_such_package'" in message


def test_stdlib_is_source_files_without_tests_or_installed_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.__getitem__)
    kept = {"abc.py", "json/tool.py", "testing.py"}
    for name in [*kept, "test/abc.py", "json/tests/a.py", "site-packages/numpy/a.py", "a.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"raise RuntimeError  # {name}\n", encoding="utf-8")
    (tmp_path / "old.py").write_bytes(b"# \xe9")
    keys = {"source": "stdlib"}
    frame = sources.documents("code", keys, SPLITS, None)
    assert set(frame["source"]) == kept
    assert frame["group"].to_list() == frame["source"].to_list()
    assert all(f"# {row['source']}\n" in row["text"] for row in frame.iter_rows(named=True))
    assert [document.source for document in sources.stdlib()] == frame["source"].to_list()


def test_the_order_of_reading_is_not_that_of_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.__getitem__)
    for number in range(400):
        (tmp_path / f"m{number}.py").write_text(f"x = {number:05}\n", encoding="utf-8")
    first = [assign_split(d.group, **SPLITS) for d in itertools.islice(sources.stdlib(), 200)]
    assert first.count("train") / 200 == pytest.approx(0.65, abs=0.12)
    assert first.count("validation") / 200 == pytest.approx(0.1, abs=0.08)


def test_tales_are_the_same_for_one_seed_and_endless() -> None:
    keys = {"source": "tales"}
    first, again, other = (
        sources.documents("stories", keys | {"seed": seed}, SPLITS, 50_000) for seed in (0, 0, 1)
    )
    assert first.equals(again)
    assert set(first["document"]).isdisjoint(other["document"])
    assert 50_000 <= sum(len(text.encode()) for text in first["text"]) < 60_000


# --- the Hub ---------------------------------------------------------------------------------

HUB = {
    "source": "hub", "id": "some/data", "revision": "abc123", "config": None, "files": None,
    "split": "train", "column": "text", "group": None, "group_pattern": None,
}  # fmt: skip


def offer(monkeypatch: pytest.MonkeyPatch, load_dataset: Callable) -> None:
    """Stand in for the library `datasets`, which takes seconds to import."""
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


def test_the_hub_is_streamed_at_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: Any, **keys: Any) -> list[dict]:
        asked.append((args, keys))
        return ROWS

    offer(monkeypatch, load_dataset)
    keys = HUB | {"config": "en", "group": "source", "group_pattern": "^([^#]*)"}
    frame = sources.documents("web", keys, SPLITS, None)
    assert frame["text"].to_list() == [row["text"] for row in ROWS]
    assert frame["group"].to_list() == ["a.txt", "a.txt", "b.txt"]
    stream = {"split": "train", "revision": "abc123", "data_files": None, "streaming": True}
    assert asked == [(("some/data", "en"), stream)]


def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **keys: Any) -> None:
        raise ConnectionError("no route to host\nsecond line")

    offer(monkeypatch, load_dataset)
    message = refused(lambda: sources.documents("web", HUB, SPLITS, None))
    assert "'some/data' at abc123 cannot be read (ConnectionError: no route to host)" in message


def test_a_hub_that_breaks_off_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(*args: Any, **keys: Any) -> Iterator[dict]:
        yield ROWS[0]
        raise OSError

    offer(monkeypatch, stream)
    message = refused(lambda: sources.documents("web", HUB, SPLITS, None))
    assert "'some/data'" in message
    assert "OSError" in message


def test_a_hub_data_set_without_the_column(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, lambda *args, **keys: ROWS)
    message = refused(lambda: sources.documents("web", HUB | {"column": "story"}, SPLITS, None))
    assert message == "some/data#0: no text under 'story'; keys: text, source, page"


# --- known defects: each must turn into one line -----------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("array.json", b'[{"text": "one"}]'),
        ("scalar.jsonl", b'"one"\n'),
        ("surrogate.jsonl", b'{"text": "\\ud800"}'),
        ("cut.jsonl.gz", gzip.compress(random.Random(0).randbytes(500).hex().encode())[:-20]),
        ("plain.jsonl.gz", b'{"text": "one"}'),
    ],
)
def test_odd_files_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert name in refused(lambda: read(tmp_path / name))


def test_a_group_pattern_whose_group_took_no_part(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    assert "'(x)?'" in refused(lambda: read(path, group="source", group_pattern="(x)?"))


def test_docstrings_of_a_module_of_a_package_that_is_not_there() -> None:
    assert "no_such.part" in refused(lambda: list(sources.docstrings(["no_such.part"])))


def test_folders_that_a_pattern_matches_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("word", encoding="utf-8")
    assert read(tmp_path / "**")["text"].to_list() == ["word"]


def test_the_place_of_a_bad_byte_in_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "\xff"}\n')
    message = refused(lambda: read(path))
    assert f"{path}:2" in message or "byte 26" in message


def test_no_flipped_byte_of_a_gzip_is_a_traceback(tmp_path: Path) -> None:
    """Of parquet this cannot be asked: one byte in a thousand makes its library end the process."""
    lines = "".join(json.dumps({"text": f"tale {n} " * 20}) + "\n" for n in range(50))
    path = tmp_path / "one.jsonl.gz"
    whole, refused = gzip.compress(lines.encode()), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            list(sources.files([str(path)], "text", None, None))
        except UserError as error:
            refused += "\n" not in str(error)
    assert refused > len(whole) / 2
