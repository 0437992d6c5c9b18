"""Latent scaling: known answers of planted features, and the same as least squares row by row."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from conftest import RECIPE, unchanged
from moediff.analysis.latent_scaling import latent_scaling
from moediff.core.errors import UserError
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.synthetic.planted import owned, planted

CPU = torch.device("cpu")
NAMES = ("common", "weaker", "A-only", "B-only", "shrunk", "one part", "other part")
CONCEPT = [0, 1, 2, 3, 4, 5, 5]  # that fires each feature: the last two are one concept, decoupled
HAS = np.array([[1.0, 1.0], [1.0, 0.4], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])  # strength
DECODES = np.array([[1, 1], [1, 1], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], bool)


def orthonormal(width: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def planted_world(aligned_rows, widths: tuple[int, int], bases: tuple[int, int] = (0, 1)):
    """Rows of orthogonal concepts and the dictionary that has read them, but for what NAMES says.

    Strengths 0, 1 and 2 of all concepts in all combinations, in each half of the text: no two
    are correlated at all.
    """
    strengths = np.array(list(itertools.product((0.0, 1.0, 2.0), repeat=6)))  # [729, concept]
    strengths = np.concatenate([strengths] * 4)  # two documents a domain
    directions = [orthonormal(widths[s], bases[s])[:6] * HAS[:, s, None] for s in range(2)]
    data = aligned_rows([strengths @ part + 3 for part in directions], document_rows=729)
    dictionary = Dictionary(Shape.of(RECIPE | {"features": 7}, widths)).requires_grad_(False)
    with_standards(dictionary, data)
    free = dictionary.blocks["free"]
    decoder, encoder = [], []
    for s, part in enumerate(directions):
        rows = part[CONCEPT] / float(dictionary.scale[s])
        decoder.append(rows * DECODES[:, [s]])
        # Read in one source, where the concept is at full strength.
        read = np.array(CONCEPT) != 3 if s == 0 else np.array(CONCEPT) == 3
        size = (rows**2).sum(1, keepdims=True)
        encoder.append(np.divide(rows, size, out=np.zeros_like(rows), where=read[:, None]))
    free.weight.copy_(torch.from_numpy(np.concatenate(decoder, axis=1)))
    free.encoder.copy_(torch.from_numpy(np.concatenate(encoder, axis=1)))
    free.encoder_bias.fill_(strengths.mean())  # centring took the mean out
    dictionary.decoder_bias.copy_(-strengths.mean() * free.weight.sum(0))  # no bias in the residual
    dictionary.threshold.fill_(1e-3)
    return data, dictionary


def with_standards(dictionary: Dictionary, data) -> None:
    moments = data.moments()
    dictionary.mean.copy_(torch.cat([torch.from_numpy(mean) for mean, _ in moments]))
    dictionary.scale.copy_(torch.tensor([variance**0.5 for _, variance in moments]))


def test_planted_features_have_their_known_nu_in_both_directions(aligned_rows) -> None:
    data, dictionary = planted_world(aligned_rows, (9, 7))
    found = latent_scaling(dictionary, data, 200, CPU)
    assert (found["fired"] == 1944).all()  # two thirds of the rows
    a, b = dictionary.scale.tolist()
    scale = a / b  # standardised lengths in B over those in A, at equal strength
    common, weaker = min(scale, 1 / scale), 0.4 * scale
    both = 1 / scale  # read in B, missed in A: A over B
    # What of each: the error holds it when the decoder does or nothing does; the reconstruction
    # when any feature decodes it.
    error = [common, weaker, 0, 0, scale, 0, 0]
    whole = [common, weaker, 0, 0, 0, scale, both]
    np.testing.assert_allclose(found["nu_error"], error, atol=1e-4)
    np.testing.assert_allclose(found["nu_reconstruction"], whole, atol=1e-4)
    assert np.isnan(found["paper_error"]).all()
    assert np.isnan(found["paper_reconstruction"]).all()


def test_in_a_common_basis_the_papers_nu_is_known_too(aligned_rows) -> None:
    """What is left in an error is centred, and the paper's slope has no constant: it loses
    1 - var(f) / mean(f^2) = 0.6 of what shrunk."""
    data, dictionary = planted_world(aligned_rows, (8, 8), bases=(0, 0))
    found = latent_scaling(dictionary, data, 200, CPU)
    a, b = dictionary.scale.tolist()
    scale = a / b
    common, weaker = min(scale, 1 / scale), 0.4 * scale
    error = [common, weaker, 0, 0, 0.4 * scale, 0, 0]
    whole = [common, weaker, 0, 0, 0, scale, 1 / scale]
    np.testing.assert_allclose(found["paper_error"], error, atol=1e-4)
    np.testing.assert_allclose(found["paper_reconstruction"], whole, atol=1e-4)
    apart = planted_world(aligned_rows, (8, 8))
    elsewhere = latent_scaling(apart[1], apart[0], 200, CPU)
    np.testing.assert_allclose(elsewhere["nu_reconstruction"], whole, atol=1e-4)
    assert np.abs(elsewhere["paper_error"][0]) < 0.5  # common, and yet the paper's is lost


def test_common_features_of_equal_strength_have_nu_1(aligned_rows) -> None:
    """The same concepts in both, in other directions and the rest of the world left out."""
    strengths = np.array(list(itertools.product((0.0, 1.0, 2.0), repeat=4)) * 4)
    directions = [orthonormal(width, s)[:4] for s, width in enumerate((6, 5))]
    data = aligned_rows([strengths @ part for part in directions], document_rows=81)
    dictionary = Dictionary(Shape.of(RECIPE | {"features": 4}, (6, 5))).requires_grad_(False)
    with_standards(dictionary, data)
    joint = np.concatenate(
        [part / float(dictionary.scale[s]) for s, part in enumerate(directions)], axis=1
    )
    free = dictionary.blocks["free"]
    free.weight.copy_(torch.from_numpy(joint))
    free.encoder.copy_(torch.from_numpy(joint / (joint**2).sum(1, keepdims=True)))
    free.encoder_bias.fill_(1.0)
    dictionary.threshold.fill_(1e-3)
    found = latent_scaling(dictionary, data, 100, CPU)
    np.testing.assert_allclose(found["nu_error"], 1, atol=1e-4)
    np.testing.assert_allclose(found["nu_reconstruction"], 1, atol=1e-4)


@pytest.fixture
def world() -> list[np.ndarray]:
    made = planted(3000, (9, 9), owned(2, everyone=10, first=4, second=4), 3, 5, 0.1, 0.05)
    return [made.rows[0] * 3 + 2, made.rows[1]]


def untrained(data, features: int = 24) -> Dictionary:
    """One with every kind of block, which fits nothing."""
    shape = Shape.of(RECIPE | {"features": features, "tied": 4, "exclusive": 4}, data.widths)
    dictionary = Dictionary(shape, seed=1)
    with_standards(dictionary, data)
    dictionary.threshold.fill_(0.2)
    dictionary.requires_grad_(False)
    weight = dictionary.blocks["free"].weight
    weight[:, : data.widths[0]] *= torch.linspace(0.5, 1.6, len(weight))[:, None]  # of either owner
    return dictionary


def plain(dictionary: Dictionary, data) -> dict[str, np.ndarray]:
    """The same from whole tables, by one least squares problem a feature, target and half."""
    ((*sources,),) = data.in_order(data.count)
    (halves,) = data.column_in_order("half", data.count)
    dictionary = in_float64(dictionary)
    rows = dictionary.standardise(sources)
    entries, values = dictionary.encode(rows)
    codes = torch.zeros(len(rows), dictionary.shape.features, dtype=torch.float64)
    codes[entries] = values
    decoder = torch.cat(dictionary.decoders(), dim=1)
    whole = codes @ decoder + dictionary.decoder_bias
    names = ("nu_error", "nu_reconstruction", "paper_error", "paper_reconstruction")
    found = {name: np.full(codes.shape[1], np.nan) for name in names}
    for feature in range(codes.shape[1]):
        f, d = codes[:, feature].numpy(), decoder[feature]
        norms = [float(d[dictionary.shape.columns(s)].norm()) for s in range(2)]
        own = int(norms[1] > norms[0] + 1e-9)
        direction = d[dictionary.shape.columns(own)].numpy()
        without = whole - codes[:, [feature]] * d
        for name, target in (("error", rows - without), ("reconstruction", whole)):
            length, beta = [], []
            for s in range(2):
                y = target[:, dictionary.shape.columns(s)].numpy()
                slopes = []
                for half in range(2):
                    inside = halves.numpy() == half
                    x = np.stack([f[inside], np.ones(inside.sum())], axis=1)
                    slopes.append(np.linalg.lstsq(x, y[inside], rcond=None)[0][0])
                length.append(max(slopes[0] @ slopes[1], 0))
                flat = np.outer(f, direction).reshape(-1, 1)
                beta.append(np.linalg.lstsq(flat, y.reshape(-1), rcond=None)[0][0])
            if length[own] > 0:
                found[f"nu_{name}"][feature] = (length[1 - own] / length[own]) ** 0.5
            found[f"paper_{name}"][feature] = beta[1 - own] / beta[own] if beta[own] > 0 else np.nan
    return found | {"fired": (codes > 0).sum(0).numpy()}


def test_equals_least_squares_row_by_row(world, aligned_rows) -> None:
    data = aligned_rows(world, 1999, 300)
    dictionary = untrained(data)
    wanted = plain(dictionary, data)
    assert wanted["fired"].min() > 0
    with unchanged(dictionary):
        found = latent_scaling(dictionary, data, 256, CPU, least=0)
    assert set(found) == set(wanted)
    assert (found["nu_error"] > 0).sum() > 12
    assert np.isfinite(found["paper_error"]).sum() > 12
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-7, atol=1e-7, err_msg=name)


def test_no_batch_or_chunk_changes_nu(world, aligned_rows) -> None:
    data = aligned_rows(world)
    found = [latent_scaling(untrained(data), data, n, CPU) for n in (64, 3000)]
    other = aligned_rows(world, 10_000, 37, folder="other")
    found.append(latent_scaling(untrained(other), other, 500, CPU))
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found[2][name], values, rtol=1e-9, atol=1e-9)


def test_a_rotation_of_one_source_changes_only_the_papers(world, aligned_rows) -> None:
    rotation = orthonormal(9, 3)
    data = aligned_rows(world)
    turned_data = aligned_rows([world[0], world[1] @ rotation], folder="turned")
    shape = Shape.of(RECIPE | {"features": 16}, data.widths)
    dictionary, turned = (Dictionary(shape, seed=1).requires_grad_(False) for _ in range(2))
    for one, rows in ((dictionary, data), (turned, turned_data)):
        with_standards(one, rows)
        one.threshold.fill_(0.2)
        one.blocks["free"].weight[:8, :9] *= 1.2  # owned by A, the others by B
        one.blocks["free"].weight[8:, :9] *= 0.8
    turned.scale.copy_(dictionary.scale)
    block = turned.blocks["free"]
    for table in (block.encoder, block.weight):
        table[:, 9:] = table[:, 9:] @ torch.from_numpy(rotation).float()
    before = latent_scaling(dictionary, data, 256, CPU)
    after = latent_scaling(turned, turned_data, 256, CPU)
    assert np.nanmin(before["nu_error"]) < 0.9
    for name in ("nu_error", "nu_reconstruction"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-4)
    assert np.nanmax(np.abs(after["paper_error"] - before["paper_error"])) > 0.1


def test_noise_has_no_length(aligned_rows) -> None:
    """The other source is noise alone, and a feature fires on a row in twenty.

    One slope of it would have length (var(Y) / sum f^2)^0.5, against 1 of the owner's decoder.
    """
    random = np.random.default_rng(0)
    count, width, features = 6000, 30, 30
    strengths = (random.random((count, features)) < 0.05) * 1.0
    data = aligned_rows([strengths @ orthonormal(30, 0), random.normal(size=(count, width))])
    shape = Shape.of(RECIPE | {"features": features}, data.widths)
    dictionary = Dictionary(shape).requires_grad_(False)
    with_standards(dictionary, data)
    read = torch.from_numpy(orthonormal(30, 0)).float()
    block, scale = dictionary.blocks["free"], float(dictionary.scale[0])
    block.weight.zero_()
    block.weight[:, :30] = read / scale
    block.encoder.zero_()
    block.encoder[:, :30] = read * scale
    block.encoder_bias.copy_(read @ dictionary.mean[:30])
    dictionary.decoder_bias[:30] = -dictionary.mean[:30] / scale
    dictionary.threshold.fill_(0.3)
    found = latent_scaling(dictionary, data, 512, CPU)
    np.testing.assert_allclose(found["fired"], strengths.sum(0))
    alone = scale / strengths.sum(0).mean() ** 0.5  # of one slope, its bias
    squared = found["nu_error"] ** 2
    assert (squared == 0).mean() > 0.3
    assert squared.mean() < 0.4 * alone**2


def test_features_that_fire_too_seldom_have_no_nu(world, aligned_rows) -> None:
    data = aligned_rows(world)
    dictionary = untrained(data)
    fired = latent_scaling(dictionary, data, 512, CPU)["fired"]
    least = int(np.median(fired)) + 1
    dictionary.threshold[3] = 1e9
    found = latent_scaling(dictionary, data, 512, CPU, least)
    assert found["fired"][3] == 0
    assert np.isnan(found["nu_error"][fired < least]).all()
    assert np.isfinite(found["nu_reconstruction"][fired >= least]).any()
    silent = untrained(data)
    silent.threshold.fill_(1e9)
    assert np.isnan(latent_scaling(silent, data, 512, CPU, 0)["paper_error"]).all()


def test_other_than_two_sources_are_refused(world, aligned_rows) -> None:
    for sources in (world[:1], [*world, world[0]]):
        data = aligned_rows(sources, folder=str(len(sources)))
        dictionary = Dictionary(Shape.of(RECIPE | {"features": 8}, data.widths))
        with pytest.raises(UserError, match=f"two sources, and this dictionary has {len(sources)}"):
            latent_scaling(dictionary, data, 512, CPU)
