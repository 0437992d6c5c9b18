"""What a panel could have seen: tries by other labellings, what counts as seen, the least that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import RECIPE
from moediff.activations import planting
from moediff.analysis import deletion, detectable, permanova
from moediff.analysis.carried import carried
from moediff.dictionaries import fitting
from moediff.dictionaries.normalising import NORMALISERS
from spliced import identity
from usages import explained

NAMES = [f"m{number}" for number in range(8)]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("count", "first"), [(8, 4), (6, 3), (5, 2), (4, 2)])
def test_tries_take_other_labellings_each_once_before_any_comes_again(count, first) -> None:
    others = len(permanova.every_labelling(count, first)) - 1
    true = np.arange(count) < first
    sides = [detectable.side_of_try(count, first, number) for number in range(2 * others)]
    for side in sides:
        assert side.sum() == first
        assert not (side == true).all()
        assert not (side == ~true).all()
    half = 2 * first == count

    def key(side: np.ndarray) -> bytes:
        return min(side.tobytes(), (~side).tobytes()) if half else side.tobytes()

    assert len({key(side) for side in sides[:others]}) == others
    assert len({key(side) for side in sides[others:]}) == others
    if half and others > 2:
        assert len({side[0] for side in sides}) == 2  # either side is taken
    again = detectable.side_of_try(count, first, 1)
    assert (again == sides[1]).all()


def test_shares_by_strength() -> None:
    side = np.array([True, False])
    assert detectable.shares_of_sources(side, 0.03, None) == [0.03, 0.0]
    assert detectable.shares_of_sources(side, 0.03, 4) == [0.03, 0.0075]


def test_a_strong_difference_along_the_planted_side_is_seen_and_nothing_is_not() -> None:
    side = detectable.side_of_try(8, 4, 0)
    table = explained(np.random.default_rng(0), 400, (4, 4), times=300, share=0.1)
    by_side = np.empty_like(table)
    by_side[:, side], by_side[:, ~side] = table[:, :4], table[:, 4:]
    found = detectable.judged(by_side, NAMES, side, 0.2)
    assert {name: row["seen"] for name, row in found.items()} == dict.fromkeys(found, True)
    assert found["r2"]["p"] == pytest.approx(1 / 35)
    assert found["exclusive"]["features"] > 20
    # Of the same table the true labels have nothing.
    along = detectable.judged(by_side, NAMES, np.arange(8) < 4, 0.2)
    assert not along["r2"]["seen"]
    assert not along["exclusive"]["seen"]
    nothing = detectable.judged(np.zeros((40, 8)), NAMES, side, 0.2)
    assert not any(row["seen"] for row in nothing.values())


def test_the_least_share_seen_is_below_every_larger_one_that_is() -> None:
    def tried(share: float, strength: float | None, seen: bool) -> dict:
        row = {"p": 0.01, "smallest_p": 0.01, "seen": seen}
        return {"share": share, "strength": strength,
                "statistics": dict.fromkeys(detectable.STATISTICS, row)}  # fmt: skip

    tries = [tried(0.01, None, number < 3) for number in range(5)]  # 3 of 5
    tries += [tried(0.03, None, number < 4) for number in range(5)]  # 4 of 5
    tries += [tried(0.1, None, True) for _ in range(5)]
    tries += [tried(0.001, None, True) for _ in range(5)]  # chance: a larger one is not seen
    tries += [tried(0.1, 2.0, False) for _ in range(5)]
    found = {(row["statistic"], row["strength"]): row for row in detectable.least(tries)}
    row = found["r2", None]
    assert row["least"] == 0.03
    assert [(one["share"], one["seen"], one["tries"]) for one in row["seen"]] == [
        (0.001, 5, 5), (0.01, 3, 5), (0.03, 4, 5), (0.1, 5, 5),
    ]  # fmt: skip
    assert found["r2", 2.0]["least"] is None
    assert found["catalogue", 2.0]["largest_tried"] == 0.1


@pytest.mark.parametrize("normalise", NORMALISERS)
def test_a_perfect_dictionary_carries_the_signal_however_rows_are_shown_to_it(
    normalise: str, aligned_rows
) -> None:
    random = np.random.default_rng(1)
    sources = [random.normal(size=(1000, 6)) * random.uniform(0.2, 5, (1000, 1)) for _ in range(2)]
    data, mask = aligned_rows(sources, 500, 100), random.random((10, 50)) < 0.2
    place = [mask, mask], [0, 10]
    frequency = planting.share_of_rows(data, *place)
    vectors = planting.signal_vectors(data, frequency, [0.5, 0.2], 0)
    paths = [[shard.path for shard in shards] for shards in data.sources]
    planted = planting.PlantedRows(paths, signal=planting.Signal(*place, vectors))
    dictionary = identity([6, 6])
    dictionary.normaliser, _ = NORMALISERS[normalise].fitted(planted)
    dictionary.mean.zero_()
    part = carried(dictionary, planted, 77, CPU)
    where = np.concatenate([planted.where(chunk) for chunk in planted.chunks])
    for s, (rows, vector) in enumerate(
        zip(map(np.concatenate, zip(*planted.in_order(100), strict=True)), vectors, strict=True)
    ):
        length = np.linalg.norm(vector)
        along = rows @ vector / length
        rise = (along[where].mean() - along[~where].mean()) / length
        assert part[:, s].sum() == pytest.approx(rise, rel=1e-5)
        assert rise == pytest.approx(1, abs=0.3)


def test_a_refitted_dictionary_carries_a_large_signal_where_it_was_planted(
    aligned_rows, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    shared = np.abs(random.normal(size=(6000, 3))) * (random.random((6000, 3)) < 0.3)
    sources = [shared @ random.normal(size=(3, 10)) + 0.05 * random.normal(size=(6000, 10))
               for _ in range(6)]  # fmt: skip
    data = aligned_rows(sources, 600, 100)
    mask = random.random((12, 50)) < 0.15
    place = [mask] * 10, [12 * number for number in range(10)]
    side = detectable.side_of_try(6, 3, 0)
    shares = detectable.shares_of_sources(side, 0.3, None)
    vectors = planting.signal_vectors(data, planting.share_of_rows(data, *place), shares, 0)
    paths = [[shard.path for shard in shards] for shards in data.sources]
    planted = planting.PlantedRows(paths, signal=planting.Signal(*place, vectors))
    recipe = {**RECIPE, "features": 8, "k": 2, "rows": 120_000, "batch": 256}
    dictionary, _ = fitting.fit(planted, recipe, 0, tmp_path / "state", CPU)
    part = carried(dictionary, planted, 256, CPU)
    assert np.isnan(part[:, ~side]).all()
    assert part[:, side].sum(0) == pytest.approx(np.ones(3), abs=0.25)
    alone = deletion.deleted_alone(dictionary, planted, 256, CPU)
    best = detectable.carrier(part, alone, side)
    assert best["carries"] > 0.6
    feature = best["feature"]
    assert alone[feature, side].min() > 5 * alone[feature, ~side].max()
    names = [f"s{number}" for number in range(6)]
    found = detectable.judged(alone, names, side, 0.2)
    assert found["exclusive"]["features"] >= 1
    assert found["r2"]["p"] == pytest.approx(found["r2"]["smallest_p"])
