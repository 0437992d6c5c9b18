"""A shard with its text by another tokenizer, and the job that writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from conftest import DENSE
from moediff.core import artifact
from moediff.corpus import encoding, token_shards
from moediff.corpus.alignment import PADDING, aligned, boundaries, retokenise
from moediff.corpus.packing import segment_positions, segment_starts
from moediff.corpus.sources import document_id
from moediff.corpus.token_shards import TokenShard, read_token_shard
from moediff.models.families import backbone
from moediff.models.inputs import model_inputs
from retokenised import (
    END,
    every_kind,
    letters,
    made_texts,
    packed,
    retokenised,
    shard_of,
)
from snake import run_script


@pytest.fixture(scope="module")
def kinds() -> dict[str, Tokenizer]:
    return every_kind()


def plainly_retokenised(
    shard: TokenShard, texts: dict[int, str], tokenizer: Tokenizer
) -> list[list[tuple[int, int]]]:
    """(document, token) of every sequence, by sets of characters."""
    covered: dict[tuple[int, int], set[int]] = {}
    ends = set()
    for sequence, row in enumerate(shard.document.tolist()):
        for position, document in enumerate(row):
            start, end = int(shard.start[sequence, position]), int(shard.end[sequence, position])
            covered.setdefault((sequence, document), set()).update(range(start, end))
            if start == end == len(texts[document]):
                ends.add((sequence, document))
    found: list[list[tuple[int, int]]] = [[] for _ in shard.document]
    for (sequence, document), characters in covered.items():
        for other, there in covered.items():
            if other != (sequence, document) and other[1] == document:
                characters = characters - there
        (whole,) = encoding.encode(tokenizer, [texts[document]], END)
        names = ("tokens", "start", "end")
        for token, start, end in zip(*(whole[name][:-1].tolist() for name in names), strict=True):
            if set(range(start, end)) <= characters:
                found[sequence].append((document, token))
        if (sequence, document) in ends:
            found[sequence].append((document, END))
    return found


@pytest.mark.parametrize("length", [7, 64])
@pytest.mark.parametrize("source", ["bytes", "merged"])
@pytest.mark.parametrize("target", ["bytes", "merged", "normalised", "unigram"])
def test_sequences_hold_the_tokens_of_their_whole_documents(
    kinds: dict, source: str, target: str, length: int
) -> None:
    shard, texts = packed(made_texts(12, length), kinds[source], length)
    arrays = retokenise(shard, texts, kinds[target], END)
    expected = plainly_retokenised(shard, texts, kinds[target])
    real = arrays["document"] != PADDING
    for row, wanted in enumerate(expected):
        size = len(wanted)
        assert real[row].tolist() == [True] * size + [False] * (real.shape[1] - size)
        found = zip(arrays["document"][row, :size], arrays["tokens"][row, :size], strict=True)
        assert list(found) == wanted
    assert real.shape[1] == max(map(len, expected))
    for name, array in arrays.items():
        assert array.dtype == getattr(shard, name).dtype


def test_spans_and_word_ends_are_those_of_the_document(kinds: dict) -> None:
    shard, texts = packed(made_texts(10, 3), kinds["merged"], 50)
    found = retokenised(shard, texts, kinds["unigram"])
    for document, text in texts.items():
        (whole,) = encoding.encode(kinds["unigram"], [text], END)
        known = {
            (token, start, end, word_end)
            for token, start, end, word_end in zip(*(whole[n].tolist() for n in whole), strict=True)
        }
        here = found.document == document
        rows = zip(*(getattr(found, name)[here].tolist() for name in whole), strict=True)
        assert set(rows) <= known
    domain = {document: number % 2 for number, document in enumerate(texts)} | {PADDING: 0}
    assert found.domain.ravel().tolist() == [domain[d] for d in found.document.ravel().tolist()]
    group = {document: number // 3 for number, document in enumerate(texts)} | {PADDING: PADDING}
    assert found.group.ravel().tolist() == [group[d] for d in found.document.ravel().tolist()]
    assert PADDING in found.group


def test_a_word_across_the_edge_is_in_no_sequence() -> None:
    text = "the fox ran"
    words = Tokenizer(models.WordLevel({"<end>": 0, "▁the": 1, "▁fox": 2, "▁ran": 3}, "<end>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    shard, texts = packed([text], letters(text), 6)  # "the fo", "x ran" and the end of text
    found = retokenise(shard, texts, words, END)
    assert found["tokens"].tolist() == [[1, 0], [3, 0]]
    document = int(document_id(text), 16)
    assert found["document"].tolist() == [[document, PADDING], [document, document]]
    assert found["start"].tolist() == [[0, 0], [7, 11]]
    assert found["end"].tolist() == [[3, 0], [11, 11]]
    assert found["word_end"].tolist() == [[True, False], [True, True]]


def test_a_sequence_in_which_no_token_fits_is_padding_alone() -> None:
    text = "abcdefgh"
    whole = Tokenizer(models.WordLevel({"<end>": 0, text: 1}, "<end>"))
    shard, texts = packed([text], letters(text), 3)
    found = retokenise(shard, texts, whole, END)
    assert found["tokens"].tolist() == [[0], [0], [0]]
    assert found["document"].ravel().tolist() == [PADDING, PADDING, int(document_id(text), 16)]
    assert found["start"].ravel().tolist() == [0, 0, 8]
    assert not found["word_end"][:2].any()


def test_a_character_cut_by_an_edge_is_in_neither_sequence(kinds: dict) -> None:
    text = "ab狐cde"
    shard, texts = packed([text], kinds["bytes"], 3)  # "ab" and a third, two thirds and "c", ...
    whole = letters(text)
    found = retokenise(shard, texts, whole, END)
    kept = [
        [whole.id_to_token(token) for token, document in zip(*row, strict=True) if document > 0]
        for row in zip(found["tokens"].tolist(), found["document"].tolist(), strict=True)
    ]
    assert kept == [["a", "b"], ["c"], ["d", "e", "<end>"]]


def test_a_token_that_covers_nothing_is_no_end_of_text_inside_a_text() -> None:
    shard, texts = packed(["abcdef"], letters("abcdef"), 3)
    shard.start[0, 2] = shard.end[0, 2]
    found = retokenise(shard, texts, letters("abcdef"), END)
    assert END not in found["tokens"]


def test_a_token_type_wide_enough_for_the_other_vocabulary() -> None:
    shard, texts = packed(["ab"], letters("ab"), 3)
    wide = Tokenizer(models.WordLevel({"<end>": 0, "ab": 1, "far": 70_000}, "<end>"))
    assert retokenise(shard, texts, wide, END)["tokens"].dtype == np.uint32


def test_each_document_is_encoded_once(kinds: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    shard, texts = packed(made_texts(4, 0, longest=60), kinds["bytes"], 16)
    seen: list[str] = []
    plain = encoding.encode

    def counted(tokenizer, given, end):
        seen.extend(given := list(given))
        return plain(tokenizer, given, end)

    monkeypatch.setattr("moediff.corpus.alignment.encode", counted)
    retokenise(shard, texts, kinds["merged"], END)
    assert len(shard.tokens) > 20
    assert seen == list(texts.values())


@pytest.mark.parametrize("across", [False, True])
def test_padding_does_not_change_what_a_model_sees(kinds: dict, tiny_model, across: bool) -> None:
    shard, texts = packed(made_texts(6, 5), kinds["bytes"], 40)
    arrays = retokenise(shard, texts, kinds["unigram"], END)
    ids, document = arrays["tokens"] % 64, arrays["document"]
    model = backbone(tiny_model(DENSE).eval())
    starts = segment_starts(document, across)
    assert segment_positions(starts).min() == 0
    row = int(np.argmin((document != PADDING).sum(1)))
    size = int((document[row] != PADDING).sum())
    assert 0 < size < document.shape[1]
    if not across:
        assert starts[row].nonzero()[0].max() == size  # padding is a segment of its own
    with torch.no_grad():
        padded, alone = (
            model(**model_inputs(ids[row : row + 1, :w], starts[row : row + 1, :w], "cpu"))[0]
            for w in (None, size)
        )
    torch.testing.assert_close(padded[:, :size], alone)


@pytest.mark.parametrize("length", [7, 64])
def test_a_beginning_of_text_stands_before_every_stretch_and_is_no_row(
    kinds: dict, length: int
) -> None:
    texts = made_texts(20, 3)
    shard, known = packed(texts, kinds["merged"], length)
    begin = kinds["unigram"].token_to_id("<unk>")
    plain = retokenised(shard, known, kinds["unigram"])
    begun = shard_of(retokenise(shard, known, kinds["unigram"], END, begin))
    for sequence in range(len(shard.tokens)):
        found, wanted = [], []
        for one, out in ((plain, wanted), (begun, found)):
            real = one.document[sequence] != PADDING
            columns = (one.document, one.tokens, one.start, one.end, one.domain, one.word_end)
            out += zip(*(column[sequence][real].tolist() for column in columns), strict=True)
        for place in reversed(range(len(wanted))):
            if place == 0 or wanted[place][0] != wanted[place - 1][0]:
                document, _, start, _, domain, _ = wanted[place]
                wanted.insert(place, (document, begin, start, start, domain, False))
        assert found == wanted
    first = segment_starts(begun.document) & (begun.document != PADDING)
    assert (begun.tokens[first] == begin).all()
    assert not (boundaries(begun) & first).any()
    masks = [aligned([one, shard])[0] for one in (plain, begun)]
    for name in ("tokens", "document", "start", "end"):
        assert np.array_equal(getattr(plain, name)[masks[0]], getattr(begun, name)[masks[1]])


# --- the job ---------------------------------------------------------------------------------


def run_job(output: Path, **files) -> None:
    run_script("corpus/retokenise", output.parent, input=files, output=[output])


@pytest.fixture
def job(tmp_path: Path, kinds: dict) -> dict:
    """Files of a job: a token shard, its corpus, and the manifest of a model with a tokenizer."""
    texts = made_texts(20, 0)
    shard, _ = packed(texts, kinds["merged"], 32, first=5)
    arrays = {n: value for n, value in vars(shard).items() if isinstance(value, np.ndarray)}
    provenance = artifact.made_by("token_shards")
    token_shards.write_token_shard(
        tmp_path / "0.h5", arrays, shard.domains, "corpus", 5, provenance, [END]
    )
    rows = [{"text": text, "document": document_id(text)} for text in texts]
    for name, part in (("a", rows[::2]), ("b", rows[1::2])):
        artifact.write_parquet(tmp_path / f"{name}.parquet", pl.DataFrame(part), {})
    model = tmp_path / "model"
    PreTrainedTokenizerFast(
        tokenizer_object=kinds["unigram"], eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(model)
    artifact.write_json(model / "model.json", provenance | {"folder": "."})
    return {
        "tokens": tmp_path / "0.h5", "corpus": [tmp_path / "a.parquet", tmp_path / "b.parquet"],
        "model": model / "model.json", "output": tmp_path / "out.h5",
    }  # fmt: skip


def test_the_job_begins_texts_where_the_manifest_says_so(job: dict, kinds: dict) -> None:
    facts = artifact.read_json(job["model"])
    artifact.write_json(job["model"], facts | {"begin_of_text": "<unk>"})
    run_job(**job)
    source, found = read_token_shard(job["tokens"]), read_token_shard(job["output"])
    texts = {int(document_id(text), 16): text for text in made_texts(20, 0)}
    begin = kinds["unigram"].token_to_id("<unk>")
    for name, array in retokenise(source, texts, kinds["unigram"], END, begin).items():
        assert np.array_equal(getattr(found, name), array)
    assert (found.tokens[:, 0] == begin).all()


@pytest.mark.parametrize("folder", ["its own", "another"])
def test_the_job_writes_a_shard_that_aligns(job: dict, kinds: dict, folder: str) -> None:
    if folder == "another":
        facts = artifact.read_json(job["model"]) | {"folder": str(job["model"].parent)}
        job["model"] = job["tokens"].parent / "model.json"
        artifact.write_json(job["model"], facts)
    run_job(**job)
    source, found = read_token_shard(job["tokens"]), read_token_shard(job["output"])
    texts = {int(document_id(text), 16): text for text in made_texts(20, 0)}
    for name, array in retokenise(source, texts, kinds["unigram"], END).items():
        assert np.array_equal(getattr(found, name), array)
    assert (found.first, found.domains, found.special) == (5, source.domains, (0, 1))
    assert found.tokenizer not in ("corpus", "")
    assert aligned([source, found])[0].sum() > 100


def test_a_model_without_a_tokenizer_is_named(job: dict, caplog: pytest.LogCaptureFixture) -> None:
    for path in job["model"].parent.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(SystemExit):
        run_job(**job)
    assert f"error in retokenise: {job['model']}: the tokenizer of" in caplog.text
    assert not job["output"].exists()
