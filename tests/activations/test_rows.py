"""Rows of a split: proved aligned, each read once an epoch, well mixed, resumed anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import made_facts
from moediff.activations.chunks import Selection
from moediff.activations.rows import AlignedRows
from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import COLUMNS, TYPES, Shard, Stored
from moediff.core.errors import UserError


def numbered(count: int, width: int = 2) -> np.ndarray:
    return np.arange(count, dtype=np.float32)[:, None].repeat(width, 1)


def choose(data: AlignedRows, wanted: np.ndarray) -> Selection:
    """The rows whose number, their own first value, is in `wanted`."""
    return data.select(lambda chunk: np.isin(data.read(chunk)[0][:, 0].numpy(), wanted))


def numbers(batches: list) -> list[float]:
    return torch.cat([batch[0][:, 0] for batch in batches]).tolist()


# --- order --------------------------------------------------------------------------------------


def test_shuffled_reads_every_row_once_an_epoch_and_resumes_anywhere(aligned_rows) -> None:
    rows = numbered(1000)
    data = aligned_rows([rows, rows * 2], shard_rows=300, chunk_rows=64)
    wanted = [*range(100), *range(200, 1000)]
    keep = choose(data, np.array(wanted))
    assert keep.count == 900
    assert (~keep).count == 100
    stream = data.shuffled(keep, 75, 3, seed=1)
    batches = [next(stream) for _ in range(36)]
    for one, two in batches:
        torch.testing.assert_close(one * 2, two)
    seen = [numbers(batches[e * 12 : e * 12 + 12]) for e in range(3)]
    for epoch in seen:
        assert sorted(epoch) == wanted
    assert seen[0] != seen[1]
    for skip in (1, 5, 12, 13, 30):
        resumed = next(data.shuffled(keep, 75, 3, seed=1, skip=skip))
        torch.testing.assert_close(resumed[0], batches[skip][0])
    uneven = data.shuffled(keep, 70, 3, seed=1)
    assert numbers([next(uneven) for _ in range(27)])[:900] == seen[0]


def test_in_order_gives_all_rows_in_batches_of_one_size(aligned_rows) -> None:
    data = aligned_rows([numbered(1000)], 300, 64)
    batches = list(data.in_order(128))
    assert [len(b[0]) for b in batches] == [128] * 7 + [104]
    assert sorted(numbers(batches)) == list(range(1000))
    columns = torch.cat(list(data.column_in_order("document", 128)))
    assert (
        columns.tolist() == [n // 50 for n in numbers(batches)] == data.column("document").tolist()
    )


def test_a_row_is_found_where_it_lies(aligned_rows) -> None:
    data = aligned_rows([numbered(700)], 300, 64)
    everything = numbers(list(data.in_order(700)))
    for row in (0, 63, 64, 299, 300, 699):
        shard, place = data.place(row)
        assert float(shard.rows(place, place + 1)[0, 0]) == everything[row]
    with pytest.raises(UserError, match="rows 0 to 699"):
        data.place(700)


@pytest.mark.parametrize("pool_chunks", [8, 64])
def test_batches_mix_documents(aligned_rows, pool_chunks: int) -> None:
    """Documents in a batch are as often there as in the split; neighbours are of any two."""
    count = 40_000
    data = aligned_rows([numbered(count, 1)], 9_000, 256, document_rows=400)
    rejected, batches, neighbours = 0, 0, []
    stream = data.shuffled(data.every(), 1000, pool_chunks, seed=0)
    for _ in range(80):  # two epochs
        documents = next(stream)[0][:, 0].numpy() // 400
        counts = np.bincount(documents.astype(int), minlength=100)
        rejected += ((counts - 10) ** 2 / 10).sum() > 134.6  # chi-square of 99 degrees, p = 0.01
        neighbours.append(np.corrcoef(documents[1:], documents[:-1])[0, 1])
        batches += 1
    assert abs(np.mean(neighbours)) < 0.05
    if pool_chunks == 64:  # the default
        assert rejected <= 0.05 * batches


# --- choosing -----------------------------------------------------------------------------------


def of_documents(folder: Path, document: np.ndarray, group_of: np.ndarray) -> AlignedRows:
    """Rows that say their document [row], in three shards; documents from 400 on are of a second domain."""
    order = np.random.default_rng(0).permutation(len(document))
    paths = []
    for number, part in enumerate(np.array_split(order, 3)):
        every = dict.fromkeys(COLUMNS, np.arange(len(part)))
        every |= {"document": document[part], "group": group_of[document[part]]}
        every |= {"domain": document[part] >= 400}
        columns = {name: every[name].astype(TYPES[name]) for name in COLUMNS}
        paths.append(folder / f"{number}.zarr.zip")
        writer = ShardWriter(paths[-1], columns, {"p": Stored("p.0", 1, 0)}, "float32", 1000)
        writer.add({"p": torch.from_numpy(document[part].astype(np.float32)[:, None])})
        writer.write(made_facts("m"))
    return AlignedRows([paths])


def held_and_left(data: AlignedRows, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents [row] of the rows that are held out and of those that are not."""
    held_out = data.held_out(rows, seed=3)
    chosen, left = (
        np.concatenate([part[0][:, 0].numpy() for part in data.selected(keep, 500)]).astype(int)
        for keep in (held_out, ~held_out)
    )
    assert len(chosen) == held_out.count >= rows
    return chosen, left


DOCUMENTS = np.concatenate([np.repeat(np.arange(400), 20), np.repeat(np.arange(400, 440), 200)])


@pytest.mark.parametrize("together", [1, 2, 4])
def test_held_out_groups_are_whole_enough_and_of_every_domain(
    tmp_path: Path, together: int
) -> None:
    group_of = np.arange(440) // together
    chosen, left = held_and_left(of_documents(tmp_path, DOCUMENTS, group_of), 2000)
    assert len(chosen) + len(left) == len(DOCUMENTS)
    assert not set(group_of[chosen]) & set(group_of[left])
    for inside, longest in ((chosen < 400, 20), (chosen >= 400, 200)):
        assert 1000 <= inside.sum() <= 1000 + together * longest


def test_a_group_far_larger_than_what_is_held_out_is_cut_between_documents(tmp_path: Path) -> None:
    data = of_documents(
        tmp_path, DOCUMENTS, (np.arange(440) >= 400).astype(int)
    )  # a group a domain
    chosen, left = held_and_left(data, 2000)
    assert not set(chosen) & set(left)
    for inside, longest in ((chosen < 400, 20), (chosen >= 400, 200)):
        assert 1000 <= inside.sum() <= 1000 + longest


def test_too_few_documents_to_hold_out_are_named(tmp_path: Path) -> None:
    data = of_documents(tmp_path, DOCUMENTS, np.arange(440))
    with pytest.raises(UserError, match="8000 rows in 400 documents of one domain: too few"):
        data.held_out(15_000, seed=3)


def massive_pair(folder: Path) -> tuple[list[list[Path]], np.ndarray]:
    """Two sources of 900 rows in three shards, each with massive rows of its own; the rows."""
    values = np.random.default_rng(1).normal(size=(2, 900, 4)).astype(np.float32)
    values[0, ::50] += 100
    values[1, ::70] += 1000
    paths: list[list[Path]] = [[], []]
    for source in range(2):
        for number, part in enumerate(np.array_split(np.arange(900), 3)):
            columns = {name: part.astype(TYPES[name]) for name in COLUMNS if name != "domain"}
            columns["domain"] = np.zeros(len(part), np.uint8)
            path = folder / f"{source}-{number}.zarr.zip"
            stored = {"p": Stored("p.0", 4, 0, 50.0 if source else 20.0)}
            writer = ShardWriter(path, columns, stored, "float32", 128)
            writer.add({"p": torch.from_numpy(values[source, part])})
            writer.write(made_facts(str(source)))
            paths[source].append(path)
    return paths, values


def test_rows_massive_in_one_source_are_left_out_of_all(tmp_path: Path) -> None:
    paths, values = massive_pair(tmp_path)
    ordinary = np.ones(900, bool)
    ordinary[::50] = ordinary[::70] = False
    data = AlignedRows(paths)
    assert data.count == ordinary.sum()
    rows = data.column("position")
    assert sorted(rows) == np.flatnonzero(ordinary).tolist()
    found = list(data.in_order(100))
    for source in (0, 1):
        stacked = torch.cat([batch[source] for batch in found]).numpy()
        np.testing.assert_array_equal(stacked, values[source, rows])
        mean, variance = data.moments()[source]
        wanted = values[source, ordinary].astype(np.float64)
        np.testing.assert_allclose(mean, wanted.mean(0), atol=1e-12)
        assert variance == pytest.approx(wanted.var(0).sum(), rel=1e-9)
    stream = data.shuffled(data.every(), data.count, 3, seed=0)
    assert set(next(stream)[0][:, 0].tolist()) == set(values[0, ordinary, 0].tolist())
    assert AlignedRows(paths[:1]).count == 900 - 18  # alone, only its own
    shard, place = data.place(100)
    assert shard.read("position")[place] == rows[100]


# --- proofs -------------------------------------------------------------------------------------


def test_rows_of_other_tokens_are_not_compared(aligned_rows) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 4))
    one = aligned_rows([rows], folder="one").sources[0][0].path
    two = aligned_rows([rows], document_rows=49, folder="two").sources[0][0].path
    with pytest.raises(UserError, match="different tokens"):
        AlignedRows([[one], [two]])


def test_of_two_tokenizers_rows_must_end_at_the_same_characters(tmp_path: Path) -> None:
    def shard(name: str, tokenizer: str, **changed: np.ndarray) -> Path:
        every = dict.fromkeys(COLUMNS, np.arange(50)) | {"domain": np.zeros(50)} | changed
        columns = {key: every[key].astype(TYPES[key]) for key in COLUMNS}
        writer = ShardWriter(tmp_path / name, columns, {"p": Stored("p.0", 1, 0)}, "float32", 9)
        writer.add({"p": torch.randn(50, 1)})
        writer.write(made_facts("m") | {"tokenizer": tokenizer})
        return tmp_path / name

    own = shard("own", "a")
    AlignedRows([[own], [shard("other", "b", token=np.arange(50)[::-1])]])
    with pytest.raises(UserError, match="different tokens"):  # by one tokenizer these differ
        AlignedRows([[own], [shard("same", "a", token=np.arange(50)[::-1])]])
    with pytest.raises(UserError, match="different tokens"):
        AlignedRows([[own], [shard("far", "b", end=np.arange(50) + 1)]])


def test_shards_of_two_models_are_not_one_source(aligned_rows) -> None:
    rows = np.random.default_rng(0).normal(size=(100, 4))
    one, two = (shards[0].path for shards in aligned_rows([rows, rows]).sources)
    with pytest.raises(UserError, match="two models"):
        AlignedRows([[one, two]])


def test_more_shards_than_may_be_open_at_once(aligned_rows, monkeypatch) -> None:
    monkeypatch.setattr("moediff.activations.shards.MOST_OPEN", 3)
    rows = np.random.default_rng(0).normal(size=(1000, 4))
    data = aligned_rows([rows, rows + 1], shard_rows=100)
    for seed in (0, 1):  # twice, in two orders
        batches = data.shuffled(data.every(), 100, 2, seed)
        total = sum(float(next(batches)[1].sum()) for _ in range(10))
        assert total == pytest.approx((rows + 1).sum(), rel=1e-4)
        assert len(Shard._open) <= 3


def test_the_digest_of_rows_follows_their_values(aligned_rows) -> None:
    rows = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    changed = rows.copy()
    changed[17, 2] = np.nextafter(changed[17, 2], np.float32(np.inf))
    found = [aligned_rows([values], folder=name).digest
             for name, values in (("a", rows), ("b", rows), ("c", changed))]  # fmt: skip
    assert found[0] == found[1] != found[2]


def test_statistics_do_not_depend_on_chunks_and_shards(aligned_rows) -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 6)) * 5 + 1000
    found = [
        aligned_rows([rows], shard, chunk, folder=str(number)).moments()[0]
        for number, (shard, chunk) in enumerate([(3000, 3000), (999, 10)])
    ]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-12)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-9)


def test_rows_that_never_vary_are_refused(aligned_rows) -> None:
    data = aligned_rows([np.random.default_rng(0).normal(size=(100, 4)), np.ones((100, 4))])
    with pytest.raises(UserError, match="never vary"):
        data.moments()
