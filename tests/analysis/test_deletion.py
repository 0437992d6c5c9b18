"""What goes with deleted features: equal to deleting them, and to what is known of planted ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import RECIPE, unchanged
from moediff.analysis.deletion import deleted_alone, deleted_by_group, deleted_together
from moediff.analysis.evaluation import VarianceExplained
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.fitting import begun
from moediff.dictionaries.normalising import NORMALISERS

CPU = torch.device("cpu")


@pytest.fixture
def rows() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    shared = random.normal(size=(3000, 5)) @ random.normal(size=(5, 20))
    return [shared[:, :12] * 3 + 5, shared[:, 12:] + random.normal(size=(3000, 8)) * 0.1]


@pytest.fixture
def data(rows, aligned_rows):
    return aligned_rows(rows, 1999, 300, group_documents=3)


@pytest.fixture(params=NORMALISERS)
def dictionary(data, request) -> Dictionary:
    """An untrained one, which deletion may make better, with every kind of block."""
    recipe = RECIPE | {"features": 48, "tied": 8, "exclusive": 4, "start": 1.0}
    made = begun(recipe, data.widths, NORMALISERS[request.param].fitted(data), seed=1)
    made.threshold.fill_(0.2)
    return made.requires_grad_(False)


def plain_loss(dictionary: Dictionary, rows: list[np.ndarray], gone: np.ndarray) -> list[float]:
    """FVE of each source with everything, less FVE with the features `gone` [F] set to 0."""
    dictionary = in_float64(dictionary)
    standard = dictionary.standardise([torch.from_numpy(part.astype(np.float32)) for part in rows])
    entries, values = dictionary.encode(standard)
    codes = torch.zeros(len(standard), dictionary.shape.features, dtype=torch.float64)
    codes[entries] = values
    decoder = torch.cat(dictionary.decoders(), dim=1)
    found = []
    for source in range(len(rows)):
        columns = dictionary.shape.columns(source)
        part, fve = standard[:, columns], []
        for kept in (codes, codes * torch.from_numpy(~gone)):
            sums = VarianceExplained(part.mean(0))
            sums.add(part, (kept @ decoder + dictionary.decoder_bias)[:, columns])
            fve.append(sums.value)
        found.append(fve[0] - fve[1])
    return found


def test_alone_is_what_variance_explained_loses(rows, data, dictionary) -> None:
    with unchanged(dictionary):
        found = deleted_alone(dictionary, data, 256, CPU)
    assert found.shape == (48, 2)
    assert (found < 0).any()
    assert (found > 0).any()
    for feature in (0, 7, 8, 20, 41, 47):
        gone = np.arange(48) == feature
        np.testing.assert_allclose(found[feature], plain_loss(dictionary, rows, gone), atol=1e-9)


def test_together_is_what_variance_explained_loses(rows, data, dictionary) -> None:
    group_of = np.random.default_rng(2).integers(-1, 4, 48)
    with unchanged(dictionary):
        found = deleted_together(dictionary, data, group_of, 5, 256, CPU)
    assert found.shape == (5, 2)
    for group in range(4):
        wanted = plain_loss(dictionary, rows, group_of == group)
        np.testing.assert_allclose(found[group], wanted, atol=1e-9)
    assert (found[4] == 0).all()


def test_groups_of_documents_make_up_what_goes_together(rows, data, dictionary) -> None:
    gone = np.arange(48) % 3 == 0
    with unchanged(dictionary):
        units, lost, held = deleted_by_group(dictionary, data, [gone, ~gone], 77, CPU)
    assert lost.shape == (2, units.size(), 2)
    np.testing.assert_allclose(held.sum(0), 1)
    groups = deleted_together(dictionary, data, gone.astype(int), 2, 256, CPU)
    np.testing.assert_allclose(lost.sum(1), groups[::-1], atol=1e-12)
    document = np.arange(3000) // 50
    own = np.isin(document, [45, 47])  # group 15 of the second domain; 46 is of the first
    exact = in_float64(dictionary)
    shown = exact.standardise([torch.from_numpy(part.astype(np.float32)) for part in rows]).numpy()
    for source in range(2):
        part = shown[:, dictionary.shape.columns(source)]
        centred = part - part.mean(0)
        share = (centred[own] ** 2).sum() / (centred**2).sum()
        assert held[35, source] == pytest.approx(share, rel=1e-5)
    assert units.group.tolist() == 2 * list(range(20))
    assert units.domain.tolist() == [0] * 20 + [1] * 20
    dictionary = in_float64(dictionary)
    standard = dictionary.standardise([torch.from_numpy(p.astype(np.float32)) for p in rows])
    (row, feature), values = dictionary.encode(standard)
    residual = standard - dictionary.decode(values, (row, feature), len(standard))
    less = torch.from_numpy(gone)[feature] & torch.from_numpy(own)[row]
    part = torch.zeros_like(standard)
    part = dictionary.add(part, values[less], (row[less], feature[less]))
    more = (part * (2 * residual + part)).numpy()
    for source in range(2):
        columns = dictionary.shape.columns(source)
        total = float((standard[:, columns] - standard[:, columns].mean(0)).square().sum())
        assert lost[0, 35, source] == pytest.approx(more[:, columns].sum() / total, rel=1e-5)


def test_no_batch_changes_what_goes(data, dictionary) -> None:
    group_of = np.arange(48) % 3
    for whole, part in (
        (
            deleted_alone(dictionary, data, n, CPU),
            deleted_together(dictionary, data, group_of, 3, n, CPU),
        )
        for n in (64, 3000)
    ):
        np.testing.assert_allclose(whole, deleted_alone(dictionary, data, 999, CPU), atol=1e-12)
        np.testing.assert_allclose(
            part, deleted_together(dictionary, data, group_of, 3, 999, CPU), atol=1e-12
        )


def test_a_perfect_reconstruction_loses_exactly_what_a_feature_explains(aligned_rows) -> None:
    """Rows are three orthogonal directions, each with a feature; deleting one loses its own energy."""
    random = np.random.default_rng(0)
    strengths = random.exponential(size=(4000, 3)) * [1, 2, 3] * (random.random((4000, 3)) < 0.5)
    data = aligned_rows([strengths, strengths[:, ::-1].copy()])
    shape = Shape.of(RECIPE | {"features": 3, "tied": 0.0}, data.widths)
    dictionary = Dictionary(shape).requires_grad_(False)
    joint = torch.cat([torch.eye(3), torch.eye(3).flip(1)], dim=1)
    dictionary.blocks["free"].encoder.copy_(joint / 2)
    dictionary.blocks["free"].weight.copy_(joint)
    dictionary.threshold.fill_(1e-6)
    found = deleted_alone(dictionary, data, 512, CPU)
    seen = strengths.astype(np.float32).astype(np.float64)
    total = ((seen - seen.mean(0)) ** 2).sum()
    np.testing.assert_allclose(found[:, 0], (seen**2).sum(0) / total, rtol=1e-9)
    np.testing.assert_allclose(found[:, 1], found[:, 0], rtol=1e-9)
