"""Recurrence of features: planted worlds, dense correlations, and the script on files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import RECIPE, unchanged
from moediff.activations.rows import AlignedRows
from moediff.analysis import matching
from moediff.analysis.matching import MATCH, NONE, Matches, best_matches, recurrence
from moediff.core import artifact
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.fitting import fit
from moediff.synthetic.planted import owned, planted
from snake import run_script

CPU = torch.device("cpu")
COUNT = 3000


# --- the same as dense tables -------------------------------------------------------------------


def untrained(widths: tuple[int, ...], features: int, seed: int) -> Dictionary:
    """A random dictionary; its last feature never fires, its first always does."""
    shape = Shape.of(RECIPE | {"features": features, "tied": 4, "exclusive": 3}, widths)
    dictionary = Dictionary(shape, seed).requires_grad_(False)
    dictionary.threshold.fill_(0.2)
    dictionary.threshold[-1] = 1e9
    first = dictionary.blocks["tied" if len(widths) > 1 else "free"]
    first.encoder_bias[0] = 20.0
    return dictionary


@pytest.fixture
def mixed(aligned_rows) -> tuple[Dictionary, list[Dictionary], AlignedRows]:
    """A crosscoder over two sources, an SAE on each of two more, and the rows of all four."""
    made = planted(COUNT, (9, 7, 8, 6), owned(4, everyone=12, private=8), 3, 0, 0.1, 0.05)
    saes = [untrained((8,), 20, 1), untrained((6,), 33, 2)]
    return untrained((9, 7), 26, 0), saes, aligned_rows(made.rows, 1999, 300)


def codes_of(dictionary: Dictionary, sources: list[torch.Tensor]) -> np.ndarray:
    """Values of every feature on every row [row, F], zeros included."""
    dictionary = in_float64(dictionary)
    rows = dictionary.standardise(sources)
    entries, values = dictionary.encode(rows)
    found = torch.zeros(len(rows), dictionary.shape.features, dtype=torch.float64)
    found[entries] = values
    return found.numpy()


def plain(first: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest correlation of each column of the first with one of the other, and with which."""
    table = np.corrcoef(first.T, other.T)[: first.shape[1], first.shape[1] :]
    table = np.where(np.isnan(table), -np.inf, table)
    return table.max(1), table.argmax(1)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("cells", [1, 150, 26 * 33, 1 << 20])
def test_equals_correlations_of_dense_tables(mixed, cells: int, monkeypatch) -> None:
    first, saes, data = mixed
    monkeypatch.setattr(matching, "PAIRS", 500)
    with unchanged(first, *saes):
        found = best_matches(first, saes, data, 256, CPU, cells)
    (sources,) = data.in_order(COUNT)
    codes = codes_of(first, sources[:2])
    assert (codes[:, 0] > 0).all()
    for number, sae in enumerate(saes):
        value, feature = plain(codes, codes_of(sae, [sources[2 + number]]))
        live = np.arange(26) != 25
        np.testing.assert_allclose(found[number].correlation[live], value[live], atol=1e-9)
        assert (found[number].feature[live] == feature[live]).all()
        assert np.isnan(found[number].correlation[25])
        assert found[number].feature[25] == NONE


def test_a_silent_dictionary_matches_nothing(mixed) -> None:
    first, saes, data = mixed
    saes[0].threshold.fill_(1e9)
    silent, other = best_matches(first, saes, data, 256, CPU)
    assert np.isnan(silent.correlation).all()
    assert (silent.feature == NONE).all()
    assert np.isfinite(other.correlation[:-1]).all()
    first.threshold.fill_(1e9)
    assert np.isnan(best_matches(first, saes, data, 256, CPU)[1].correlation).all()


def test_no_batch_or_chunk_changes_it(mixed, aligned_rows) -> None:
    first, saes, data = mixed
    wanted = best_matches(first, saes, data, 64, CPU)
    rows = [torch.cat(part).numpy() for part in zip(*data.in_order(COUNT), strict=True)]
    for again, batch in ((data, COUNT), (aligned_rows(rows, 700, 90, folder="again"), 999)):
        for one, other in zip(wanted, best_matches(first, saes, again, batch, CPU), strict=True):
            np.testing.assert_allclose(one.correlation, other.correlation, atol=1e-12)


def test_a_feature_goes_with_itself_and_a_constant_with_nothing(aligned_rows) -> None:
    """The codes of a copy with another unit are the same up to a factor; a value that never varies
    has no correlation, though its sum of squares is rounded."""
    made = planted(COUNT, (9,), owned(1, everyone=12), 3, 0, noise=0.05).rows[0]
    data = aligned_rows([made, made * 4])
    one, other = untrained((9,), 20, 0), untrained((9,), 20, 0)
    other.scale.fill_(4.0)
    other.blocks["free"].weight[5] *= 3  # a smaller code with a longer decoder row: an equal score
    other.blocks["free"].encoder[5] /= 3
    for dictionary in (one, other):
        free = dictionary.blocks["free"]
        free.encoder[:4] = 0
        free.encoder_bias[:4] = torch.tensor([0.3, 3.3, 12345.678, 1e6 / 3])
    (found,) = best_matches(one, [other], data, 256, CPU)
    assert np.isnan(found.correlation[:4]).all()
    assert (found.feature[4:-1] == np.arange(4, 19)).all()
    np.testing.assert_allclose(found.correlation[4:-1], 1, atol=1e-9)
    assert (found.correlation[4:-1] <= 1).all()


def test_rows_are_read_as_seldom_as_the_tables_allow(mixed, monkeypatch) -> None:
    _, _, data = mixed
    first, *others = (
        untrained((width,), features, 0)
        for width, features in zip(data.widths, (20, 39, 20, 20), strict=True)
    )
    reads, in_order = [], data.in_order
    monkeypatch.setattr(data, "in_order", lambda batch: reads.append(batch) or in_order(batch))
    for cells, wanted in ((20 * 79, 1), (20 * 79 - 1, 2), (20 * 40, 2), (20 * 40 - 1, 3)):
        reads.clear()
        best_matches(first, others, data, 1000, CPU, cells)
        assert len(reads) == wanted, cells


# --- planted worlds -----------------------------------------------------------------------------


def test_features_of_one_world_recur_and_of_another_do_not(aligned_rows, tmp_path) -> None:
    """A crosscoder over two sources; an SAE on a third of the same concepts in a basis of its own,
    and one on a source that has its own concepts at its own places."""
    same = planted(6000, (16, 14, 15), owned(3, everyone=20), 2, seed=0)
    apart = planted(6000, (15,), owned(1, everyone=20), 2, seed=1)
    every = [*same.rows, apart.rows[0]]
    recipe = RECIPE | {"features": 24, "k": 2, "rows": 350 * 256, "batch": 256, "lr": 0.01,
                       "threshold_rows": 1000}  # fmt: skip
    fitted = [
        fit(aligned_rows(rows, folder=f"{n}"), recipe, n, tmp_path / f"state-{n}", CPU)[0]
        for n, rows in enumerate((every[:2], every[2:3], every[3:]))
    ]
    data = aligned_rows(every, folder="every")
    found = best_matches(fitted[0], fitted[1:], data, 512, CPU)
    matches = dict(zip(("moe.1", "dense.1"), found, strict=True))
    table = recurrence(matches, {"moe": ["moe.1"], "dense": ["dense.1"]}, ["moe.0", "dense.0"])
    (sources,) = data.in_order(len(every[0]))
    frequent = (codes_of(fitted[0], sources[:2]) > 0).mean(0) > 0.02  # planted ones fire on 0.1
    assert frequent.sum() >= 18
    seen = table.filter(frequent)
    assert seen["recurs_moe"].mean() > 0.9
    assert seen["recurs_dense"].sum() == 0
    assert seen["best_dense.1"].max() < 0.2


# --- the table ----------------------------------------------------------------------------------


def test_a_table_counts_other_seeds_alone() -> None:
    values = {
        "moe.0": [1.0, 1.0, np.nan], "moe.1": [MATCH, 0.5, np.nan], "moe.2": [0.9, -0.2, np.nan],
        "dense.0": [0.1, 1.0, np.nan], "narrow.0": [MATCH - 1e-9, 0.9, np.nan],
    }  # fmt: skip
    matches = {
        name: Matches(np.array(best), np.where(np.isnan(best), NONE, 7))
        for name, best in values.items()
    }
    models = {"moe": ["moe.0", "moe.1", "moe.2"], "dense": ["dense.0"], "narrow": ["narrow.0"]}
    table = recurrence(matches, models, ["moe.0", "dense.0"])
    assert table["feature"].to_list() == [0, 1, 2]
    assert table["best_moe.2"].to_list() == [0.9, -0.2, None]
    assert table["match_moe.2"].to_list() == [7, 7, None]
    assert table["recurs_moe"].to_list() == [2, 0, None]
    assert table["recurs_of_moe"].to_list() == [2, 2, 2]
    assert table["recurs_dense"].to_list() == [0, 0, None]
    assert table["recurs_of_dense"].to_list() == [0, 0, 0]
    assert table["recurs_narrow"].to_list() == [0, 1, None]
    assert table["recurs_of_narrow"].to_list() == [1, 1, 1]


def test_the_job(mixed, tmp_path: Path) -> None:
    first, saes, data = mixed
    parts = [slice(0, 2), slice(2, 3), slice(3, 4)]
    paths = [tmp_path / f"{n}.safetensors" for n in range(3)]
    for path, one, part in zip(paths, (first, *saes), parts, strict=True):
        facts = {"origins": data.origins[part], "recipe": {"batch": 256}}
        one.save(path, artifact.made_by("dictionaries") | facts)
    shards = [[shard.path for shard in source] for source in data.sources]

    def run(files: list[Path], point: str = "made") -> None:
        run_script(
            "analysis/matching",
            tmp_path,
            input={
                "dictionary": files[0], "saes": files[1:],
                "validation": [*shards[0], *shards[1]], "sae_validation": [*shards[2], *shards[3]],
            },
            params={
                "sources": ["moe.0", "dense.0"], "points": [None, None], "sae_points": [point, None],
                "sae_sources": ["moe.1", "dense.0"],
                "sae_models": {"moe": ["moe.1"], "dense": ["dense.0"]},
            },
            output=[tmp_path / "recurs.parquet"],
            config={"device": "cpu"},
        )  # fmt: skip

    with pytest.raises(SystemExit):  # no SAEs
        run(paths[:1])
    run(paths)
    table = artifact.read_parquet(tmp_path / "recurs.parquet")
    wanted = best_matches(first, saes, data, 256, CPU)
    for source, found in zip(("moe.1", "dense.0"), wanted, strict=True):
        np.testing.assert_array_equal(table[f"best_{source}"].to_numpy(), found.correlation)
    assert table["recurs_of_moe"].to_list() == [1] * 26
    assert table["recurs_of_dense"].to_list() == [0] * 26
    with pytest.raises(SystemExit):  # SAEs in another order than their sources
        run([paths[0], paths[2], paths[1]])
    with pytest.raises(SystemExit):
        run(paths, "another")
