"""Text is read, packed and counted part by part: memory is that of a part, results those of the whole."""

from __future__ import annotations

import gc
import itertools
import random
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer

from conftest import sentences
from moediff.core import artifact, scratch
from moediff.core.errors import DamagedError, UserError
from moediff.corpus import ngrams, packing, seen, sources, token_shards
from moediff.corpus import tokenizer as tokenizers_of
from moediff.corpus.document import Document

SPLITS = {"fit": 0.25, "validation": 0.1}
PROVENANCE = artifact.made_by("documents")


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python and numpy held while something was done."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- tables -----------------------------------------------------------------------------------


def parts(count: int, rows: int = 50) -> Iterator[pl.DataFrame]:
    for number in range(count):
        texts = [f"é {number} {row}" for row in range(rows)]
        yield pl.DataFrame({"text": texts, "row": range(rows)})


def test_a_table_of_one_part_has_the_bytes_of_a_whole_one(tmp_path: Path) -> None:
    (whole,) = parts(1)
    artifact.write_parquet(tmp_path / "whole", whole, PROVENANCE)
    artifact.write_parquet_parts(tmp_path / "parts", parts(1), PROVENANCE)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_table_of_several_parts_is_read_whole_and_by_parts(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    artifact.write_parquet_parts(path, parts(4), PROVENANCE)
    assert artifact.read_parquet(path).equals(pl.concat(parts(4)))
    found = list(artifact.parquet_parts(path, ["row", "text"]))
    assert len(found) == 4
    assert pl.concat(found).equals(pl.concat(parts(4)).select("row", "text"))
    assert pl.read_parquet_metadata(path)["moediff"] == artifact.canonical(PROVENANCE)


def test_two_parts_at_most_are_held_while_a_table_is_written(tmp_path: Path) -> None:
    made: list[weakref.ref[pl.DataFrame]] = []
    most = 0

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal most
        for part in parts(9):
            made.append(weakref.ref(part))
            most = max(most, sum(one() is not None for one in made))
            yield part
            del part

    artifact.write_parquet_parts(tmp_path / "parts", counted(), PROVENANCE)
    assert most == 2


def test_a_damaged_or_foreign_table_is_noticed_before_its_first_part(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    artifact.write_parquet_parts(path, parts(3), PROVENANCE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="not a whole parquet file"):
        next(artifact.parquet_parts(path, ["text"]))
    with pytest.raises(FileNotFoundError):
        next(artifact.parquet_parts(tmp_path / "other", ["text"]))
    artifact.write_parquet_parts(path, parts(3), PROVENANCE)
    with pytest.raises(DamagedError, match="document"):
        next(artifact.parquet_parts(path, ["text", "document"]))


def test_a_source_that_fails_leaves_no_table(tmp_path: Path) -> None:
    def failing() -> Iterator[pl.DataFrame]:
        yield from parts(3)
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        artifact.write_parquet_parts(tmp_path / "parts", failing(), PROVENANCE)
    assert list(tmp_path.iterdir()) == []


# --- documents --------------------------------------------------------------------------------


def test_numbers_seen_are_those_of_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "RECENT", 8)
    chance, known, found = random.Random(0), set(), seen.Seen()
    for _ in range(3000):
        number = chance.choice([chance.randrange(500), chance.randrange(2**60)])
        assert found.add(number) == (number not in known)
        known.add(number)
    assert len(found) == len(known)
    lengths = [len(part) for part in found._sorted]
    assert all(first >= 2 * second for first, second in itertools.pairwise(lengths))


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes a source of so many texts, every tenth of which stood before."""

    def of(count: int) -> None:
        def made() -> Iterator[Document]:
            for number in range(count):
                text = f"{number - number % 10 // 9} " + "some words that stand in all " * 40
                yield Document(text, f"{number}", f"{number // 3}")

        monkeypatch.setitem(sources.TEXT_SOURCES, "stdlib", made)

    return of


def read() -> Iterator[pl.DataFrame]:
    return sources.documents("domain", {"source": "stdlib"}, SPLITS, None)


def test_documents_in_parts_are_the_documents(source, monkeypatch: pytest.MonkeyPatch) -> None:
    source(400)
    (whole,) = read()
    monkeypatch.setattr(sources, "PART_BYTES", 20_000)
    found = list(read())
    assert len(found) > 10
    assert pl.concat(found).equals(whole)
    assert len(whole) == 360
    sizes = [part["text"].str.len_bytes().sum() for part in found]
    assert all(20_000 <= size < 22_000 for size in sizes[:-1])


def test_memory_of_documents_is_that_of_a_part(
    source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", 50_000)
    monkeypatch.setattr(seen, "RECENT", 64)
    peaks = []
    for count in (500, 500, 5000):  # the first imports
        source(count)
        write = lambda: artifact.write_parquet_parts(tmp_path / "a", read(), PROVENANCE)  # noqa: E731
        peaks.append(peak(write))
    grown = 16 * 5000  # a number each, twice while they are merged
    assert peaks[2] < 1.15 * peaks[1] + grown


# --- tokenizer, token shards ------------------------------------------------------------------


def written(path: Path, texts: list[str], rows: int) -> Path:
    """A domain's table, in row groups of so many rows."""
    frame = pl.DataFrame(
        {
            "text": texts,
            "document": [sources.document_id(text) for text in texts],
            "group": texts,
            "split": ["fit" if n % 5 == 0 else "train" for n in range(len(texts))],
        }
    )
    artifact.write_parquet_parts(path, frame.iter_slices(rows), PROVENANCE)
    return path


@pytest.mark.parametrize("most", [1, 900, 10**9])
def test_a_tokenizer_learns_of_the_least_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(tokenizers_of, "TOKENIZER_BYTES", most)
    path = written(tmp_path / "a.parquet", sentences(300, 1), 40)
    frame = artifact.read_parquet(path).filter(pl.col("split") == "train").sort("document")
    expected, size = [], 0
    for text in frame["text"]:
        expected.append(text)
        size += len(text.encode())
        if size >= most:
            break
    assert list(tokenizers_of.training_texts([path, path])) == 2 * expected


def packed(path: Path, tokenizer: Tokenizer, count: int, scratch: Path) -> list[Path]:
    """Shards of 8 sequences, `count` sequences in all, written one after another."""
    paths, first = [], 0
    shards = packing.packed(
        {"a": path}, {"a": 1.0}, tokenizer, 0, "train", count, 64, 0, 8, scratch
    )
    for arrays in shards:
        paths.append(scratch / f"{first:05d}.h5")
        token_shards.write_token_shard(paths[-1], arrays, ["a"], "t", first, PROVENANCE, [0])
        first += len(arrays["tokens"])
    return paths


def test_memory_of_packing_reading_and_counting_does_not_follow_the_text(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BLOCK", 256), ("STRETCH", 128), ("LEAF", 128)):
        monkeypatch.setattr(ngrams, name, value)
    monkeypatch.setattr(scratch, "BUFFER", 1 << 9)
    found: dict[str, list[int]] = {}
    for number, size in enumerate((24, 24, 240)):  # the first imports
        folder = tmp_path / f"{number}"
        folder.mkdir()
        path = written(folder / "a.parquet", sentences(8 * size, 1), 50)
        paths: list[Path] = []
        splits = []
        work = {
            "packing": lambda p=path, s=size, f=folder, to=paths: to.extend(
                packed(p, tokenizer, s, f)
            ),
            "reading": lambda of=paths, f=folder, to=splits: to.append(
                token_shards.TokenSplit(of, False, f)
            ),
            "counting": lambda of=splits, f=folder: ngrams.ngram_losses(of[0], of[0], 320, f),
            "a batch": lambda of=splits: of[0].tokens[np.array([3, 9])],
        }
        for name, job in work.items():
            found.setdefault(name, []).append(peak(job))
    # Bytes: some for each document; digests and paths of 27 more shards; a few tables not merged yet. The
    # 13,824 tokens more would take 55,000 where they are held, 400,000 as they were packed before.
    grown = {"packing": 40 * 8 * 240, "reading": 15_000, "counting": 25_000, "a batch": 100}
    for name, (_, small, large) in found.items():
        assert large < 1.02 * small + grown[name], (name, small, large)
