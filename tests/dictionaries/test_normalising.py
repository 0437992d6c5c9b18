"""Rows as dictionaries are shown them: over their own norms, whitened, and back again exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import RECIPE
from moediff.activations.rows import AlignedRows
from moediff.activations.views import rotation
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.fitting import Job, begun, fit_all
from moediff.dictionaries.normalising import FLOOR, NORMALISERS, Centres, Normaliser
from moediff.dictionaries.principal_components import principal_components

CPU = torch.device("cpu")
SMALL = RECIPE | {"features": 40, "k": 4, "rows": 30 * 128, "batch": 128, "tied": 4, "exclusive": 2,
                  "threshold_rows": 500}  # fmt: skip


def rows_of(width: int = 12, count: int = 4000, seed: int = 0) -> np.ndarray:
    """Rows far from isotropic, far from zero, of norms that differ tenfold."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, width)) @ random.normal(size=(width, width))
    return (mixed + 4 * random.normal(size=width)) * random.uniform(0.3, 3, size=(count, 1))


def shown(normalise: str, data: AlignedRows) -> tuple[list[torch.Tensor], Normaliser, Centres]:
    """All rows as a normaliser fitted on them shows them, in float64, and what it is."""
    normaliser, centres = NORMALISERS[normalise].fitted(data)
    normaliser.double()
    parts = [torch.cat(part).double() for part in zip(*data.in_order(999), strict=True)]
    means = [torch.from_numpy(mean) for mean, _ in centres]
    centred = [normaliser.centred(part, s, means[s]) for s, part in enumerate(parts)]
    return centred, normaliser, centres


# --- whitened ------------------------------------------------------------------------------------


def test_whitened_fit_rows_have_variance_one_in_every_direction(aligned_rows) -> None:
    data = aligned_rows([rows_of(12), rows_of(5, seed=1)], shard_rows=1500)
    found, normaliser, centres = shown("whiten", data)
    for source, (rows, (_, variance)) in enumerate(zip(found, centres, strict=True)):
        width = rows.shape[1]
        torch.testing.assert_close(
            rows.T @ rows / len(rows), torch.eye(width).double(), atol=1e-4, rtol=0
        )
        assert variance == pytest.approx(width, abs=1e-6)
        matrix = normaliser.matrix(source)
        torch.testing.assert_close(matrix, matrix.T, atol=1e-6, rtol=0)


def test_whitening_undoes_any_invertible_map_but_for_a_rotation(aligned_rows) -> None:
    rows = rows_of()
    mapped = rows @ (np.random.default_rng(5).normal(size=(12, 12)) + 3 * np.eye(12)) + 7
    (one, other), *_ = shown("whiten", aligned_rows([rows, mapped]))
    left, _, right = torch.linalg.svd(one.T @ other)
    assert float((one @ (left @ right) - other).norm() / other.norm()) < 1e-4
    assert float((one - other).norm() / other.norm()) > 0.1


def test_a_rotated_source_in_another_unit_is_whitened_to_that_rotation(aligned_rows) -> None:
    rows, turn = rows_of(), rotation(12).astype(np.float64)
    (one, other), *_ = shown("whiten", aligned_rows([rows, 0.01 * rows @ turn + 3]))
    torch.testing.assert_close(one @ torch.from_numpy(turn), other, atol=2e-3, rtol=0)


def test_directions_of_next_to_no_variance_are_not_blown_up(aligned_rows) -> None:
    random = np.random.default_rng(2)
    spread = np.array([1.0] * 6 + [1e-4, 1e-4])  # standard deviations
    rows = random.normal(size=(4000, 8)) * spread
    (found,), _, ((_, variance),) = shown("whiten", aligned_rows([rows]))
    variances = found.square().mean(0)
    np.testing.assert_allclose(variances[:6], 1, rtol=0.05)
    floor = FLOOR * 6 / 8  # of the mean eigenvalue
    np.testing.assert_allclose(variances[6:], 1e-8 / floor, rtol=0.1)
    assert variance == pytest.approx(float(variances.sum()), rel=1e-3)


def test_rows_fewer_than_their_width_are_whitened_without_a_zero_divided_by(aligned_rows) -> None:
    (found,), normaliser, _ = shown("whiten", aligned_rows([rows_of(12, 8)]))
    assert torch.isfinite(found).all()
    assert torch.isfinite(normaliser.inverse(0)).all()


def test_components_of_whitened_rows_are_all_alike_and_of_joint_ones_are_shared(
    aligned_rows,
) -> None:
    alone = principal_components(aligned_rows([rows_of()], folder="alone"), "whiten")
    np.testing.assert_allclose(alone.variances, 1 / 12, rtol=1e-3)
    rows = rows_of()
    turned = rows @ rotation(12).astype(np.float64)
    both = principal_components(aligned_rows([rows, turned], folder="both"), "whiten")
    np.testing.assert_allclose(both.variances[:12], 2 / 12, rtol=1e-3)
    np.testing.assert_allclose(both.variances[12:], 0, atol=1e-4)


# --- over their own norms ------------------------------------------------------------------------


def test_rows_over_their_norms_have_mean_square_one_and_no_unit(aligned_rows) -> None:
    rows = rows_of()
    larger = rows * np.random.default_rng(3).uniform(0.1, 10, size=(len(rows), 1))
    data = aligned_rows([rows, larger])
    (one, other), normaliser, ((mean, variance), _) = shown("rms", data)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    whole = one + torch.from_numpy(mean)
    np.testing.assert_allclose(whole.square().mean(1), 1, rtol=1e-5)
    np.testing.assert_allclose(one.mean(0), 0, atol=1e-6)
    assert variance == pytest.approx(float(one.square().sum(1).mean()), rel=1e-9)
    stored = torch.cat([batch[0] for batch in data.in_order(1000)]).double()
    torch.testing.assert_close(
        normaliser.mean_row(0, torch.from_numpy(mean)), stored.mean(0), atol=1e-5, rtol=0
    )


def test_a_row_of_zeros_stays_one(aligned_rows) -> None:
    rows = rows_of(6, 300)
    rows[7] = 0
    data = aligned_rows([rows])
    dictionary = dictionary_of(data, "rms")
    zeros = [torch.zeros(1, 6)]
    (back,) = dictionary.restore(dictionary.standardise(zeros), zeros)
    assert torch.isfinite(dictionary.standardise(zeros)).all()
    assert float(back.abs().max()) < 1e-30


# --- a dictionary over them ----------------------------------------------------------------------


def dictionary_of(data: AlignedRows, normalise: str, **recipe) -> Dictionary:
    settings = SMALL | {"normalise": normalise} | recipe
    return begun(settings, data.widths, NORMALISERS[normalise].fitted(data), 0).requires_grad_(
        False
    )


@pytest.mark.parametrize("normalise", NORMALISERS)
def test_what_is_restored_is_what_was_standardised(normalise: str, aligned_rows) -> None:
    data = aligned_rows([rows_of(12), rows_of(5, seed=1)])
    sources = next(data.in_order(500))
    for dictionary, near in (
        (dictionary_of(data, normalise), 1e-5),
        (in_float64(dictionary_of(data, normalise)), 1e-12),
    ):
        back = dictionary.restore(dictionary.standardise(sources), sources)
        for one, other in zip(back, sources, strict=True):
            gap = (one.double() - other.double()).norm(dim=1) / other.double().norm(dim=1)
            assert float(gap.max()) < near


def test_without_their_rows_sizes_cannot_be_restored(aligned_rows) -> None:
    data = aligned_rows([rows_of()])
    sources = next(data.in_order(10))
    dictionary = dictionary_of(data, "rms")
    with pytest.raises(UserError, match=r"normalise: rms .*give `restore` the activations"):
        dictionary.restore(dictionary.standardise(sources))
    whitened = dictionary_of(data, "whiten")
    assert whitened.restore(whitened.standardise(sources))[0].shape == (10, 12)


@pytest.mark.parametrize(
    ("scale", "wanted"), [("total", 1.0), ("width", 12.0)], ids=["total", "width"]
)
@pytest.mark.parametrize("normalise", NORMALISERS)
def test_the_unit_comes_after_the_normalisation(
    normalise: str, scale: str, wanted: float, aligned_rows
) -> None:
    data = aligned_rows([rows_of()])
    dictionary = in_float64(dictionary_of(data, normalise, scale=scale))
    rows = torch.cat([dictionary.standardise(part) for part in data.in_order(1000)])
    assert float(rows.square().sum(1).mean()) == pytest.approx(wanted, rel=1e-4)
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-4)


@pytest.mark.parametrize("normalise", NORMALISERS)
def test_a_fit_is_the_same_alone_or_beside_others_and_comes_back_from_its_file(
    normalise: str, aligned_rows, tmp_path: Path
) -> None:
    data = aligned_rows([rows_of(12), rows_of(6, seed=1)])

    def job(name: str, place: str) -> Job:
        return Job(name, SMALL | {"normalise": name}, 0, tmp_path / place / name)

    ((_, alone),) = fit_all(data, [job(normalise, "alone")], CPU)
    together = {j.name: f for j, f in fit_all(data, [job(n, "all") for n in NORMALISERS], CPU)}
    state, other = alone.dictionary.state_dict(), together[normalise].dictionary.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
    path = tmp_path / "dictionary.safetensors"
    alone.dictionary.save(path, artifact.made_by("dictionaries"))
    loaded, facts = Dictionary.load(path)
    assert facts.get("normalise", "none") == normalise
    sources = next(data.in_order(200))
    assert torch.equal(loaded.standardise(sources), alone.dictionary.standardise(sources))
    early = together[normalise].early.standardise(sources)
    assert torch.equal(early, loaded.standardise(sources))


def test_a_dictionary_of_stored_rows_has_the_file_that_it_always_had(
    aligned_rows, tmp_path: Path
) -> None:
    data = aligned_rows([rows_of()])
    before = {key: value for key, value in SMALL.items() if key != "normalise"}
    found = []
    for name, recipe in (("before", before), ("none", SMALL)):
        ((_, fitted),) = fit_all(data, [Job("one", recipe, 0, tmp_path / name)], CPU)
        path = tmp_path / f"{name}.safetensors"
        fitted.dictionary.save(path, artifact.made_by("dictionaries"))
        found.append(path.read_bytes())
    assert found[0] == found[1]
    tensors, facts = artifact.read_tensors(path)
    assert not [name for name in tensors if name.startswith("normaliser")]
    assert "normalise" not in facts
