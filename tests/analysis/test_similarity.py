"""How alike rows are: what theory says of each measure, and the same from rows one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from moediff.analysis import similarity
from moediff.analysis.kinds import graded_rows
from moediff.analysis.similarity import MEASURES, NEAREST
from moediff.core.errors import UserError


def rows_of(seed: int, count: int = 400, width: int = 24) -> Tensor:
    """Rows [count, width] whose columns vary by different amounts."""
    random = torch.Generator().manual_seed(seed)
    sizes = torch.linspace(0.2, 3, width, dtype=torch.float64)
    return torch.randn(count, width, generator=random, dtype=torch.float64) * sizes + 5


def turned(rows: Tensor, seed: int = 9) -> Tensor:
    """The same rows in a random basis, shifted and scaled."""
    random = torch.Generator().manual_seed(seed)
    square = torch.randn(rows.shape[1], rows.shape[1], generator=random, dtype=torch.float64)
    return 0.3 * rows @ torch.linalg.qr(square).Q - 7


def in_turn(rows: Tensor) -> Tensor:
    """Halves of the text [n] of which rows come one by one."""
    return torch.arange(len(rows)) % 2


def compare(measure: str, one: Tensor, other: Tensor, half: Tensor | None = None) -> float:
    how = MEASURES[measure]
    half = in_turn(one) if half is None else half
    return how.compare(how.prepare(one, half), how.prepare(other, half), torch.arange(len(one)))


@pytest.mark.parametrize("measure", MEASURES)
def test_rows_are_wholly_like_themselves_in_another_basis(measure: str) -> None:
    rows = rows_of(0)
    near = 1e-10 if MEASURES[measure].by_chance else 1e-6  # the weakest ridge is one still
    assert compare(measure, rows, turned(rows)) == pytest.approx(1, abs=near)


@pytest.mark.parametrize("measure", MEASURES)
def test_permuted_rows_are_alike_by_chance_alone(measure: str) -> None:
    """The calibrated similarity of unrelated rows is 0 in about LEVEL of all worlds."""
    zeros = 0
    for seed in range(30):
        rows = rows_of(seed, 200)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(200))
        table = similarity.similarities([rows, rows[order]], in_turn(rows), ["a", "b"], seed + 1000)
        (found,) = table.filter(measure=measure)["calibrated"].to_list()
        assert found < 0.05
        zeros += found == 0
    # Of 30 at 0.95: fewer than 24 in one of 600 runs. Ridge is above 0 or below by chance.
    assert zeros >= (24 if MEASURES[measure].by_chance else 6)


@pytest.mark.parametrize("measure", [name for name, how in MEASURES.items() if how.by_chance])
def test_an_order_is_that_of_the_second_sources_rows(measure: str) -> None:
    one, other = rows_of(0, 150), rows_of(1, 150)
    order = torch.from_numpy(np.random.default_rng(0).permutation(150))
    how = MEASURES[measure]
    found = how.compare(how.prepare(one, in_turn(one)), how.prepare(other, in_turn(one)), order)
    assert found == pytest.approx(compare(measure, one, other[order]), abs=1e-12)


def test_cka_of_two_planted_directions_is_known() -> None:
    """One source has u and v, the other u alone: |X'Y|^2 = n^2, |X'X| = n sqrt(2), |Y'Y| = n."""
    sign = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64).repeat(50, 1)
    assert compare("cka", sign, sign[:, :1]) == pytest.approx(0.5**0.5, abs=1e-12)
    assert compare("cka", sign[:, :1], sign[:, 1:]) == pytest.approx(0, abs=1e-12)


def test_procrustes_of_planted_directions_is_known() -> None:
    """A has u and v of equal size, B u alone: A'B has one singular value, 1 / sqrt(2)."""
    sign = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64).repeat(50, 1)
    assert compare("procrustes", sign, sign[:, :1]) == pytest.approx(0.5**0.5, abs=1e-12)


def test_cka_and_procrustes_equal_their_plain_forms() -> None:
    one, other = rows_of(0), 0.5 * turned(rows_of(0)) + rows_of(1) * 0.2
    x, y = (part.numpy() - part.numpy().mean(0) for part in (one, other))
    k, m = x @ x.T, y @ y.T
    wanted = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    assert compare("cka", one, other) == pytest.approx(wanted, rel=1e-10)
    a, b = (part / np.linalg.norm(part) for part in (x, y))  # all components: 24 of at most 32
    wanted = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    assert compare("procrustes", one, other) == pytest.approx(wanted, rel=1e-10)


def test_ridge_of_planted_directions_is_known() -> None:
    """A has u and v of equal size, B u alone: all of B is read off A, half of A off B."""
    random = torch.Generator().manual_seed(0)
    both = torch.randn(4000, 2, generator=random, dtype=torch.float64)
    assert compare("ridge", both, both[:, :1]) == pytest.approx(0.75, abs=0.02)


def test_ridge_equals_its_plain_form() -> None:
    one = rows_of(0, 120)
    other = turned(one) + 0.2 * rows_of(1, 120)
    found = []
    for x, y in ((one, other), (other, one)):
        x, y = (part.numpy() - part.numpy().mean(0) for part in (x, y))
        x, y = (part / np.sqrt((part**2).sum(1).mean()) for part in (x, y))
        for fit in (0, 1):
            parts = [part[half::2] for half in (fit, 1 - fit) for part in (x, y)]
            a, b, c, d = (part - part.mean(0) for part in parts)
            best = None
            for strength in similarity.STRENGTHS:
                inverse = np.linalg.inv(a.T @ a + len(a) * strength * np.eye(24))
                left = b - a @ inverse @ a.T @ b
                freedom = len(a) - 1 - np.trace(a @ inverse @ a.T)
                error = (left**2).sum() / freedom**2
                if best is None or error < best[0]:
                    best = error, inverse @ a.T @ b
            found.append(1 - ((d - c @ best[1]) ** 2).sum() / (d**2).sum())
    assert compare("ridge", one, other) == pytest.approx(np.mean(found), rel=1e-9)
    assert 0.1 < np.mean(found) < 0.9


def test_neighbours_equal_those_counted_one_by_one() -> None:
    one, other = rows_of(0, 60), rows_of(0, 60) + rows_of(3, 60) * 0.3
    shared = 0
    for i in range(60):
        sets = []
        for rows in (one.numpy(), other.numpy()):
            by_distance = sorted(range(60), key=lambda j: np.linalg.norm(rows[i] - rows[j]))
            sets.append(set([j for j in by_distance if j != i][:NEAREST]))
        shared += len(sets[0] & sets[1])
    assert compare("neighbours", one, other) == pytest.approx(shared / (60 * NEAREST), abs=1e-12)


def test_a_calibrated_similarity_counts_from_chance() -> None:
    assert similarity.calibrated(0.6, 0.2) == pytest.approx(0.5)
    assert similarity.calibrated(0.1, 0.2) == 0
    assert similarity.calibrated(1, 0.2) == 1


def test_pairs_are_graded_in_the_order_of_kinds() -> None:
    rows = [rows_of(0), rows_of(2), turned(rows_of(0)), turned(rows_of(2))]
    table = similarity.similarities(
        rows, in_turn(rows[0]), ["dense.0", "moe.0", "dense.1", "moe.1"]
    )
    for found in graded_rows(table, {"moe": ["moe.0", "moe.1"], "dense": ["dense.0", "dense.1"]}):
        distance = np.array(found["squared_distances"])
        assert np.array_equal(distance, distance.T)
        assert distance[0, 1] == pytest.approx(0, abs=1e-10)
        assert distance[2, 3] == pytest.approx(0, abs=1e-10)
        assert distance[:2, 2:].min() > 0.9
        by_name = {row["statistic"]: row for row in found["judged"]}
        assert by_name["r2"]["observed"] == pytest.approx(1, abs=1e-6)
        assert by_name["r2"]["rank"] == 1


def test_a_sample_is_spread_evenly_and_the_same_in_all_sources(aligned_rows) -> None:
    rows = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    data = aligned_rows([rows, 2 * rows], 300, 70, group_documents=4)
    (one, other), half = similarity.sample(data, 250)
    assert torch.equal(other, 2 * one)
    numbers = (one[:, 0] / 3).long()
    assert len(numbers.unique()) == 250
    shard = torch.bincount(numbers // 300)  # a shard's rows lie shuffled in it
    assert shard.tolist() == [75, 75, 75, 25]
    group, domain = numbers // 200, numbers // 50 % 2
    for own in range(10):
        inside = half[(group == own // 2) & (domain == own % 2)]
        assert len(inside) > 5
        assert len(inside.unique()) == 1
    assert 80 < half.sum() < 170


def test_too_few_rows_and_rows_that_never_vary_are_refused(aligned_rows) -> None:
    few = aligned_rows([np.ones((63, 3), np.float32)], folder="few")
    with pytest.raises(UserError, match="63 validation rows: fewer than 64"):
        similarity.sample(few)
    rows = [rows_of(0), torch.ones(400, 5)]
    with pytest.raises(UserError, match=r"dense\.0: its rows never vary"):
        similarity.similarities(rows, in_turn(rows[0]), ["moe.0", "dense.0"])


def test_text_of_one_group_has_no_halves(aligned_rows) -> None:
    alone = aligned_rows([rows_of(0, 100).numpy()], document_rows=100)
    with pytest.raises(UserError, match="the validation rows are of one group of documents: half"):
        similarity.sample(alone)


def test_ridge_is_not_told_of_a_text_by_the_rest_of_it() -> None:
    """Rows of a group are alike, sources unrelated: what is learned of a group holds for no other."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 60)
    one, other = (
        torch.from_numpy(random.normal(size=(20, 24))[group] + 0.1 * random.normal(size=(1200, 24)))
        for _ in range(2)
    )
    assert compare("ridge", one, other) > 0.9  # from rows to others of the same groups
    assert compare("ridge", one, other, torch.from_numpy(group % 2)) < 0.1
