"""Strongest examples: the right rows and windows against plain loops, text that survives its bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from conftest import RECIPE, VOCABULARY, made_facts, unchanged
from moediff.activations.rows import AlignedRows
from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import Stored
from moediff.analysis import example_files, examples
from moediff.analysis.examples import AFTER, BEFORE, COUNT, Strongest, feature_examples, pieces
from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError
from moediff.corpus.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    read_vocabulary,
    train_tokenizer,
    write_tokenizer,
)
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from routed import fires, made_dictionary, pre_activations, routed_rows

CPU = torch.device("cpu")


def words(size: int = VOCABULARY) -> Tokenizer:
    """A tokenizer whose entry n is the word wn, joined with spaces."""
    return Tokenizer(models.WordLevel({f"w{n}": n for n in range(size)}, unk_token="w0"))


# --- which rows ---------------------------------------------------------------------------------


def plainly(feature, value, document, row) -> dict[int, list[tuple[float, int]]]:
    """Value and row of the COUNT strongest of each feature, by sorting all of them."""
    found: dict[int, list[tuple[float, int]]] = {}
    seen = set()
    for v, r, f, d in sorted(zip(-value, row, feature, document, strict=True)):
        if (f, d) not in seen and len(found.setdefault(f, [])) < COUNT:
            found[f].append((-v, r))
            seen.add((f, d))
    return found


@pytest.mark.parametrize("cut", [1, 17, 5000])
def test_the_strongest_are_those_of_a_whole_sort_however_they_come(cut: int) -> None:
    """Values of six levels, so that most are ties, within a document and between documents."""
    random = np.random.default_rng(0)
    rows = 400
    row = np.repeat(np.arange(rows), 3)
    feature = np.concatenate([random.permutation(7)[:3] for _ in range(rows)])
    value = random.integers(1, 7, len(row)).astype(float)
    document = random.integers(0, 30, rows)[row]
    strongest = Strongest(9)
    for start in range(0, len(row), cut):
        part = slice(start, start + cut)
        facts = {"row": row[part], "document": document[part]}
        facts |= dict.fromkeys(("sequence", "position", "domain"), row[part] * 2)
        strongest.add(feature[part], value[part], facts)
    expected = plainly(feature, value, document, row)
    for f in range(9):
        alive = np.isfinite(strongest.value[f])
        found = list(zip(strongest.value[f][alive], strongest.facts["row"][f][alive], strict=True))
        assert found == expected.get(f, [])
        assert (strongest.facts["domain"][f][alive] == 2 * strongest.facts["row"][f][alive]).all()
    assert np.isfinite(strongest.value[:7]).all()
    assert not np.isfinite(strongest.value[7:]).any()


# --- windows ------------------------------------------------------------------------------------


def test_rows_and_windows_equal_plain_loops_over_dense_activations(tmp_path, token_shard) -> None:
    _, _, data = routed_rows(tmp_path, token_shard, ("resid_post", 1), beside=True)
    dictionary = made_dictionary(data, 24, share=0.2)
    dictionary.threshold[5] = torch.inf
    sources = [torch.cat(part) for part in zip(*data.in_order(100), strict=True)]
    value = (pre_activations(dictionary, sources) * fires(dictionary, sources)).detach().numpy()
    with unchanged(dictionary):
        table = feature_examples(dictionary, data, words(), 64, CPU)

    token, document, sequence, position, domain = (
        data.column(name).astype(int).tolist()
        for name in ("token", "document", "sequence", "position", "domain")
    )
    row_at = {place: r for r, place in enumerate(zip(document, sequence, position, strict=True))}
    expected = []
    for f in range(24):
        r = np.flatnonzero(value[:, f])
        best = plainly(np.full(len(r), f), value[r, f], np.array(document)[r], r).get(f, [])
        for rank, (_, peak) in enumerate(best):
            window = [peak]
            for step, most in ((-1, BEFORE), (1, AFTER)):
                for n in range(1, most + 1):
                    place = document[peak], sequence[peak], position[peak] + step * n
                    if place not in row_at:
                        break
                    window.append(row_at[place])
            window.sort(key=lambda row: position[row])
            expected.append((f, rank, peak, window))
    assert table.select("feature", "rank", "row").rows() == [part[:3] for part in expected]
    assert 5 not in table["feature"]
    lengths = set()
    for found, (f, _, peak, window) in zip(table.iter_rows(named=True), expected, strict=True):
        assert found["domain"] == data.domains[domain[peak]]
        assert "".join(found["tokens"]) == " ".join(f"w{token[row]}" for row in window)
        assert found["peak"] == window.index(peak)
        assert found["activations"] == pytest.approx(value[window, f], rel=1e-6, abs=1e-12)
        assert found["activation"] == found["activations"][found["peak"]]
        lengths.add(len(window))
    assert max(lengths) == BEFORE + 1 + AFTER
    assert min(lengths) < BEFORE

    # Batches change nothing but the last bits of a product, and so the order of rows with one context.
    again = feature_examples(dictionary, data, words(), 7, CPU)
    keys = ["feature", "rank", "domain", "row", "tokens", "peak"]
    same = again["row"] == table["row"]
    assert same.mean() > 0.9
    assert again.select(keys).filter(same).equals(table.select(keys).filter(same))
    np.testing.assert_allclose(again["activation"], table["activation"], rtol=1e-6)


def planted(folder: Path, shards: int) -> AlignedRows:
    """60 rows of 3 documents, 20 each, one value a row, in shards.

    Rows 7 and 15 are left out. Sequence 0 is document 0; 1 holds document 1 and the first half of
    document 2; the rest of that is sequence 2, whose positions follow on.
    """
    row = np.delete(np.arange(60), [7, 15])
    value = np.zeros(60)
    value[[10, 12, 25, 36, 48]] = [5, 4, 5, 6, 3]
    paths = []
    for number, part in enumerate(
        np.array_split(np.random.default_rng(0).permutation(row), shards)
    ):
        columns = {
            "token": part, "document": part // 20, "group": part // 20,
            "sequence": np.digitize(part, [20, 50]),
            "position": np.where(part < 20, part, part - 20), "domain": (part // 20) % 2,
            "start": part, "end": part + 1,
        }  # fmt: skip
        path = folder / f"{number}.zarr.zip"
        writer = ShardWriter(path, columns, {"made": Stored("made.0", 1, 0)}, "float32", 16)
        writer.add({"made": torch.from_numpy(value[part, None].astype(np.float32))})
        writer.write(made_facts("m") | {"tokenizer": "made"})
        paths.append(path)
    return AlignedRows([paths])


@pytest.mark.parametrize("shards", [1, 3])
def test_planted_peaks_have_their_windows_whatever_the_shards(tmp_path: Path, shards: int) -> None:
    """Gap, end of document and end of sequence, known by hand; a row and its neighbour in two shards."""
    data = planted(tmp_path, shards)
    dictionary = Dictionary(Shape.of(RECIPE | {"features": 2}, [1]))
    block = dictionary.blocks["free"]
    with torch.no_grad():
        block.encoder.copy_(torch.tensor([[1.0], [-1.0]]))
        block.weight.copy_(torch.ones(2, 1))
        dictionary.threshold.fill_(0.5)
    table = feature_examples(dictionary, data, words(), 16, CPU)
    assert table["feature"].to_list() == [0, 0, 0]  # the other never fires
    assert table["activation"].to_list() == [
        6,
        5,
        3,
    ]  # documents 1, 0, 2; 12 and 25 are second best
    windows = [range(20, 40), range(8, 15), range(40, 50)]
    for found, window in zip(table.iter_rows(named=True), windows, strict=True):
        assert "".join(found["tokens"]) == " ".join(f"w{row}" for row in window)
    assert table["peak"].to_list() == [16, 2, 8]
    assert table["activations"][0].to_list() == [*[0] * 5, 5, *[0] * 10, 6, 0, 0, 0]
    assert table["activations"][1].to_list() == [0, 0, 5, 0, 4, 0, 0]
    assert table["domain"].to_list() == ["even", "odd", "odd"]
    assert [data.column("token")[row] for row in table["row"]] == [36, 10, 48]


# --- text ---------------------------------------------------------------------------------------

TEXT = "def café():\n\treturn '😀', \"漢字\" # naïve  spaces\u2028end </script>"


@pytest.fixture(scope="module")
def bytelevel() -> Tokenizer:
    return train_tokenizer(["def return café naïve spaces the end " * 3] * 5, 280)


def test_pieces_of_bytes_join_to_the_text(bytelevel: Tokenizer) -> None:
    ids = bytelevel.encode(TEXT).ids
    (found,) = pieces(bytelevel, [ids])
    assert len(found) == len(ids)
    assert "".join(found) == TEXT
    smile = [n for n, piece in enumerate(found) if piece == "😀"]
    assert found[smile[0] - 3 : smile[0]] == ["", "", ""]  # its first three bytes


def test_a_window_that_cuts_a_character_is_decoded_as_a_whole(bytelevel: Tokenizer) -> None:
    ids = bytelevel.encode(TEXT).ids
    windows = [ids[a:b] for a in range(len(ids)) for b in (a + 1, a + 2, a + 5, a + 25)]
    for window, found in zip(windows, pieces(bytelevel, windows), strict=True):
        assert len(found) == len(window)
        assert "".join(found) == bytelevel.decode(window, skip_special_tokens=False)
    torn = [found for found in pieces(bytelevel, windows) if "\ufffd" in "".join(found)]
    assert len(torn) > 10
    assert pieces(bytelevel, []) == []


def test_pieces_of_a_sentencepiece_decoder_keep_their_spaces() -> None:
    entries = ["▁the", "▁price", "▁", *(f"<0x{byte:02X}>" for byte in "€".encode()), "."]
    tokenizer = Tokenizer(models.WordLevel({e: n for n, e in enumerate(entries)}, unk_token="."))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    (found,) = pieces(tokenizer, [list(range(7))])
    assert found == ["the", " price", " ", "", "", "€", "."]


def test_special_tokens_are_shown(bytelevel: Tokenizer) -> None:
    assert pieces(bytelevel, [[0, *bytelevel.encode("end").ids]])[0][0] == END_OF_TEXT


# --- tokenizers ---------------------------------------------------------------------------------


def test_the_tokenizer_is_the_one_that_read_the_rows(tmp_path: Path, bytelevel) -> None:
    path = tmp_path / "tokenizer.json"
    write_tokenizer(path, tmp_path / "vocabulary.json", bytelevel, END_OF_TEXT, [END_OF_TEXT])
    found, digest = examples.read_tokenizer(path)
    assert found.get_vocab() == bytelevel.get_vocab()
    assert digest == read_vocabulary(tmp_path / "vocabulary.json").digest
    data = planted(tmp_path, 1)
    with pytest.raises(UserError, match="read by another tokenizer"):
        examples.check_tokenizer(data, digest, path)
    data.sources[0][0].facts["tokenizer"] = digest
    examples.check_tokenizer(data, digest, path)
    data.sources[0][0].facts["tokenizer"] = None
    with pytest.raises(UserError, match="its rows are external activations"):
        examples.check_tokenizer(data, digest, path)


def test_a_checkpoint_of_its_own_tokenizer_gives_it(tmp_path: Path, bytelevel) -> None:
    """As `retokenise` reads it, whose digest the token shards carry."""
    own = PreTrainedTokenizerFast(tokenizer_object=bytelevel, eos_token=AddedToken(END_OF_TEXT))
    own.save_pretrained(tmp_path)
    artifact.write_json(tmp_path / "model.json", artifact.made_by("models") | {"folder": "."})
    found, digest = examples.read_tokenizer(tmp_path / "model.json")
    loaded, *_ = load_tokenizer(str(tmp_path), None)
    assert digest == artifact.digest(loaded.to_str())
    assert (
        pieces(found, [bytelevel.encode(TEXT).ids])[0]
        == pieces(bytelevel, [bytelevel.encode(TEXT).ids])[0]
    )


def test_a_dictionary_in_which_nothing_fires_has_an_empty_table(tmp_path: Path) -> None:
    dictionary = Dictionary(Shape.of(RECIPE | {"features": 2}, [1]))
    dictionary.threshold.fill_(torch.inf)
    table = feature_examples(dictionary, planted(tmp_path, 1), words(), 16, CPU)
    assert len(table) == 0
    assert table.schema["tokens"] == pl.List(pl.String)


def test_examples_are_read_as_they_were_written(tmp_path: Path) -> None:
    odd = ["", '"', "\\", "\\u00e9", "\x00", "\n", "\u2028<b>", "\ufffd", "\u202e", "漢", "😀"]
    table = pl.DataFrame(
        {
            "feature": [3, 3], "tokens": [odd, []],
            "activations": [[0.1, 2.5, 1e-7, 1e-45, 3.4e38, 1 / 3], []],
        },
        schema_overrides={"activations": pl.List(pl.Float32)},
    )  # fmt: skip
    for part in (table, table.clear()):
        example_files.write(tmp_path / "examples.parquet", part, artifact.made_by("examples"))
        assert example_files.read(tmp_path / "examples.parquet").equals(part)
    example_files.write(tmp_path / "examples.parquet", table, artifact.made_by("examples"))
    (tmp_path / "cut").write_bytes((tmp_path / "examples.parquet").read_bytes()[:-9])
    with pytest.raises(DamagedError):
        example_files.read(tmp_path / "cut")
