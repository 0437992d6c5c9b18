"""The user's own files: read by their own names, as what they are, or refused in one line."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moediff.core.errors import UserError
from moediff.corpus import document, group_search, sources

SPLITS = {"fit": 0.25, "validation": 0.1}
ROWS = [{"text": f"tale {number}", "source": f"book {number // 2}"} for number in range(6)]
TEXTS = [row["text"] for row in ROWS]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def read(*paths: Path | str, **keys: Any) -> pl.DataFrame:
    whole = {"source": "files", "column": "text", "group": None, "group_pattern": None}
    settings = whole | {"paths": [str(path) for path in paths]} | keys
    return pl.concat(sources.documents("domain", settings, SPLITS, None))


def refused(*paths: Path | str, **keys: Any) -> str:
    """The one line by which reading is refused, which never tells to remove a file of the user's."""
    with pytest.raises(UserError) as caught:
        read(*paths, **keys)
    message = str(caught.value)
    assert message.isprintable()
    assert "rm " not in message
    return message


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A file that may not be read; root, whom nothing stops, is somebody else meanwhile."""
    mode = path.stat().st_mode
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)
        path.chmod(mode)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, as pytest's own may not be."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "twin"), [("b[0]", "b0"), ("a*", "ab"), ("a?", "ab"), ("[!x]", "y")]
)
def test_a_parquet_file_is_read_by_its_own_name_and_no_other(
    tmp_path: Path, odd: str, twin: str
) -> None:
    pl.DataFrame({"text": ["of the odd name"]}).write_parquet(tmp_path / f"{odd}.parquet")
    assert read(tmp_path / "*.parquet")["text"].to_list() == ["of the odd name"]
    pl.DataFrame({"text": ["of its twin"]}).write_parquet(tmp_path / f"{twin}.parquet")
    found = read(tmp_path / "*.parquet")
    assert sorted(found["text"]) == ["of its twin", "of the odd name"]


@pytest.mark.parametrize("column", ["*", "^.*$", "^t", "a[0]"])
def test_a_column_is_read_by_its_own_name_and_no_other(tmp_path: Path, column: str) -> None:
    frame = pl.DataFrame({"text": ["other"], column: ["own"], "a0": ["twin"]})
    frame.write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", column=column)["text"].to_list() == ["own"]


def test_a_folder_called_as_a_home_is_not_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder, text in (("~", "here"), ("home", "at home")):
        (tmp_path / folder).mkdir()
        pl.DataFrame({"text": [text]}).write_parquet(tmp_path / folder / "a.parquet")
    assert read("[~]/a.parquet")["text"].to_list() == ["here"]


def test_brackets_that_match_nothing_say_how_a_bracket_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "text [2025]"
    folder.mkdir()
    (folder / "a.txt").write_text("word", encoding="utf-8")
    assert "text [[]2025]" in refused(folder / "*.txt")
    assert read(tmp_path / "text [[]2025]" / "*.txt")["text"].to_list() == ["word"]
    assert "write [[]" in refused(tmp_path / "no [such] file")


def test_brackets_that_match_another_file_than_the_one_so_called_are_refused(
    tmp_path: Path,
) -> None:
    for name in ("b[0].txt", "b0.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert "b[[]0].txt" in refused(tmp_path / "b[0].txt")
    (tmp_path / "b[0].txt").unlink()
    assert read(tmp_path / "b[0].txt")["text"].to_list() == ["b0.txt"]


@pytest.mark.parametrize("name", [b"latin-\xe9.txt", b"two\nlines.txt", b"\x1b[31m.txt"])
def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(b"word")
    assert "rename it" in refused(tmp_path / "*.txt")
    (tmp_path / "名　前.txt").write_text("word", encoding="utf-8")  # a wide blank is a letter
    os.unlink(path)
    assert read(tmp_path / "*.txt")["text"].to_list() == ["word"]


# --- formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a.JSONL", "a.ndjson", "a.NDJson.GZ", "a.Json", "a.jsonlines", "a.PARQUET", "a.b.Parquet"],
)
def test_a_format_is_known_by_its_suffix_in_any_case(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if "parquet" in name.lower():
        pl.DataFrame(ROWS).write_parquet(path)
    else:
        data = LINES.encode()
        path.write_bytes(gzip.compress(data) if name.lower().endswith("gz") else data)
    found = read(path, group="source")
    assert found["text"].to_list() == TEXTS
    assert found["group"].to_list() == [row["source"] for row in ROWS]


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("a.csv", "convert it to parquet or JSON lines"),
        ("A.TSV", "convert it to parquet or JSON lines"),
        ("a.arrow", "convert it to parquet or JSON lines"),
        ("a.feather", "convert it to parquet or JSON lines"),
        ("a.pq", "name it .parquet"),
        ("a.parquet.snappy", "unpack it"),
        ("a.jsonl.zst", "unpack it"),
        ("a.txt.gz", "unpack it"),
        ("a.csv.xz", "unpack it"),
        ("a.bz2", "unpack it"),
        ("a.ZIP", "unpack it"),
        ("a.pdf", "convert it to plain text"),
    ],
)
def test_what_is_neither_text_nor_a_table_that_is_read_is_refused_by_its_name(
    tmp_path: Path, name: str, cure: str
) -> None:
    (tmp_path / name).write_text("text\nA plain sentence.\n", encoding="utf-8")
    message = refused(tmp_path / name)
    assert message.startswith(f"{tmp_path / name}: ")
    assert cure in message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PAR1\x15\x04", "name it .parquet"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip"),
        (b"\x28\xb5\x2f\xfd\x00", "compressed by zstd"),
        (b"PK\x03\x04\x14", "a zip archive"),
        (b"%PDF-1.7\n", "a PDF"),
        ("two bytes a letter".encode("utf-16-le"), "byte 1 is 0"),
        (b'\n{"text": "one"}\n{"text": "two"}\n', "name the file .jsonl"),
    ],
)
def test_content_of_another_kind_under_the_name_of_a_text_is_refused(
    tmp_path: Path, data: bytes, said: str
) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert said in refused(tmp_path / "a.txt")


def test_text_of_any_other_suffix_is_one_document(tmp_path: Path) -> None:
    texts = {"a.md": "# Title", "b.py": "x = {1: 2}", "c": "no suffix", "d.tex": '{"other": "x"}'}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert read(tmp_path / "*")["text"].to_list() == list(texts.values())


def test_plain_text_has_no_group_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    (tmp_path / "b.txt").write_text("word", encoding="utf-8")
    assert "no column 'source'" in refused(tmp_path / "*", group="source")
    assert read(tmp_path / "*")["text"].to_list() == [*TEXTS, "word"]


# --- byte-order marks -------------------------------------------------------------------------


def test_a_byte_order_mark_is_no_part_of_any_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone text")
    (tmp_path / "b.txt").write_bytes(b"one text")
    (tmp_path / "c.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one text"}\n')
    joined = b'{"text": "two"}\n\xef\xbb\xbf{"text": "\xef\xbb\xbfthree"}\n'
    (tmp_path / "d.jsonl").write_bytes(joined)
    pl.DataFrame({"text": ["\ufeffthree", "\ufeff"]}).write_parquet(tmp_path / "e.parquet")
    assert read(tmp_path / "*")["text"].to_list() == ["one text", "two", "three"]


# --- JSON lines -------------------------------------------------------------------------------

BAD_LINES = {
    "long number": ('{"text": "x", "n": ' + "9" * 5000 + "}", "more than 4300 digits"),
    "deep": ('{"text": "x", "n": ' + "[" * 200_000, "nested too deeply"),
    "deep and whole": ('{"text": "x", "n": ' + "[" * 100_000 + "]" * 100_000 + "}", "too deeply"),
    "half a character": ('{"text": "a \\ud800", "source": "b"}', "in its text"),
    "half a character in the group": ('{"text": "a", "source": "\\udfff b"}', "its group '\\udfff b'"),
    "nan": ('{"text": "a", "source": NaN}', "no value under the group 'source'"),
    "null": ('{"text": "a", "source": null}', "no value under the group 'source'"),
    "empty": ('{"text": "a", "source": ""}', "no value under the group 'source'"),
    "twice": ('{"text": "a", "text": "b", "source": "c"}', "'text' stands twice"),
    "twice by number": ('{"text": "a", "te\\u0078t": "b", "source": "c"}', "'text' stands twice"),
    "group twice": ('{"text": "a", "source": "b", "source": "c"}', "'source' stands twice"),
    "two": ('{"text": "a", "source": "b"} {"text": "c"}', "more than one object on a line"),
    "key of two lines": ('{"te\\nxt": "a", "source": "b"}', "keys: te\\nxt, source"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path, case: str, suffix: str) -> None:
    line, said = BAD_LINES[case]
    path, data = tmp_path / f"a{suffix}", (LINES + line + "\n").encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    message = refused(path, group="source")
    assert message.startswith((f"{path}:7: ", f"{path}#6: "))  # the line, or the row from 0
    assert said in message
    assert len(message) < len(str(tmp_path)) + 200


def test_a_field_of_other_letters_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"t\u00e9": "a", "t\u00e9": "b"}', encoding="utf-8")
    assert "'t\u00e9' stands twice" in refused(tmp_path / "a.jsonl", column="t\u00e9")


def test_a_group_is_the_same_however_a_table_writes_it(tmp_path: Path) -> None:
    groups = ["1", "1.0", "1e0", '"1"', '{"a": 1, "b": 2}', '{"b": 2, "a": 1}', "-0.0", "0", "1.5"]
    lines = [f'{{"text": "{n}", "source": {group}}}' for n, group in enumerate(groups)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = read(tmp_path / "a.jsonl", group="source").sort("text")["group"].to_list()
    assert found == ["1"] * 4 + ['{"a": 1, "b": 2}'] * 2 + ["0", "0", "1.5"]


def test_a_field_that_nobody_asked_for_may_stand_twice(tmp_path: Path) -> None:
    line = '{"text": "a", "n": 1, "n": 2, "of": {"text": "b"}, "kind": "text"}'
    (tmp_path / "a.jsonl").write_text(line, encoding="utf-8")
    assert read(tmp_path / "a.jsonl")["text"].to_list() == ["a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(ROWS, indent=2), "a JSON list over several lines; write one object a line"),
        (json.dumps(ROWS), "not a list; write one object a line"),
        (json.dumps(ROWS[0], indent=2), "a JSON object over several lines"),
    ],
)
def test_json_that_is_no_json_lines_is_called_what_it_is(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    message = refused(tmp_path / "a.json")
    assert message.startswith(f"{tmp_path}/a.json:1: ")
    assert said in message


def test_a_nan_group_of_parquet_is_no_value(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": ["a", "b"], "page": [1.5, float("nan")]})
    frame.write_parquet(tmp_path / "a.parquet")
    assert "#1: no value under the group 'page'" in refused(tmp_path / "a.parquet", group="page")


# --- group patterns ---------------------------------------------------------------------------


def test_a_pattern_without_end_is_stopped_and_named_with_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = r"^(\w+\s?)*$"
    monkeypatch.setattr(group_search, "SECONDS", 5.0)
    rows = [*ROWS, {"text": "word", "source": "a" * 40 + "!"}]
    rows[:6] = [row | {"source": "a"} for row in ROWS]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    message = refused(path, group="source", group_pattern=pattern)
    assert message.startswith(f"{path}#6: group_pattern '{pattern}' comes to no end on 'aaaa")


def test_groups_over_several_batches_and_files_are_what_a_plain_search_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "TOGETHER", 4)
    for name in ("a", "b"):
        rows = [{"text": f"{name} {n}", "source": f"{name}/été\n{n}#{n}"} for n in range(5)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    found = read(tmp_path / "*", group="source", group_pattern=r"(?<=/)(\w+)\s\d")
    assert found["group"].to_list() == ["été"] * 10
    message = refused(tmp_path / "*", group="source", group_pattern="[^4]$")
    assert message.startswith(f"{tmp_path}/a.jsonl#4: ")
    assert "finds nothing in 'a/été\\n4#4'" in message


def test_a_pattern_that_finds_the_empty_text_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    assert "finds nothing" in refused(tmp_path / "a.jsonl", group="source", group_pattern="x*")


def test_a_search_answers_every_name_in_order() -> None:
    names = ["a.txt#0", "b", "", "c.txt#17"]
    assert group_search.search("#([0-9]+)", names, 60.0) == ["0", None, None, "17"]
    assert group_search.search("^[a-c]", names, 60.0) == ["a", "b", None, "c"]
    assert group_search.search("(x)?", names, 60.0) == [None] * 4
    with pytest.raises(group_search.Endless) as endless:
        group_search.search("(a+)+$", ["aaa", "a" * 40 + "!", "a"], 5.0)
    assert endless.value.name == "a" * 40 + "!"


# --- permission -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.txt"])
def test_a_file_without_permission_is_called_that(open_folder: Path, name: str) -> None:
    path = open_folder / name
    if name == "a.parquet":
        pl.DataFrame(ROWS).write_parquet(path)
    else:
        path.write_bytes(gzip.compress(LINES.encode()) if name.endswith("gz") else b"word")
    with locked(path):
        message = refused(path)
    assert "cannot be read (Permission denied)" in message
    assert str(path) in message


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.txt"])
def test_a_file_that_is_locked_or_gone_after_the_check_is_called_that(
    open_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moediff.corpus.text_files.glob_fault", lambda *_: None)
    path = open_folder / name
    path.write_bytes(b"word")
    with locked(path):
        assert f"{path}: cannot be read (Permission denied)" in refused(path)
    monkeypatch.setattr("moediff.corpus.text_files.matching_files", lambda _: [str(path)])
    path.unlink()
    assert f"{path}: cannot be read (No such file" in refused(path)


def test_a_link_to_nothing_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word", encoding="utf-8")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    assert f"'{tmp_path}/b.txt' cannot be read: a link to nothing" in refused(tmp_path / "*.txt")
