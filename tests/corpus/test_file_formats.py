"""Text files: every format gives the same rows, and each way to be wrong is one line."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from documented import ROWS, jsonl, read, refused
from moediff.core.errors import UserError
from moediff.corpus import sources


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
