"""Variance explained: answers known from theory, and the same from any batch, chunk or shard."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from conftest import RECIPE, unchanged
from moediff.analysis import without_massive
from moediff.analysis.evaluation import VarianceExplained, check_models, measure
from moediff.analysis.measured import POOLED, THRESHOLD, fve_rows
from moediff.core.errors import UserError
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.fitting import begun
from moediff.dictionaries.normalising import NORMALISERS
from moediff.dictionaries.principal_components import principal_components


def explained(rows: torch.Tensor, guess: torch.Tensor, mean: torch.Tensor, batch: int) -> float:
    sums = VarianceExplained(mean)
    for start in range(0, len(rows), batch):
        sums.add(rows[start : start + batch], guess[start : start + batch])
    return sums.value


@pytest.fixture
def rows() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(5000, 7, generator=random) * torch.arange(1, 8) + 100


def test_the_mean_explains_exactly_nothing_and_the_rows_everything(rows: torch.Tensor) -> None:
    mean = rows.double().mean(0)
    assert explained(rows, mean.expand_as(rows), mean, 999) == 0.0
    assert explained(rows, rows, mean, 999) == 1.0


def test_equals_sklearn_on_the_same_arrays(rows: torch.Tensor) -> None:
    guess = rows * 0.9 + 3  # shrunk and biased: a centred residual would hide the bias
    found = explained(rows, guess, rows.double().mean(0), 640)
    wanted = r2_score(rows.double(), guess.double(), multioutput="variance_weighted")
    assert found == pytest.approx(wanted, abs=1e-6)


def test_does_not_depend_on_the_batch(rows: torch.Tensor) -> None:
    guess, mean = rows + torch.sin(rows), rows.double().mean(0)
    values = [explained(rows, guess, mean, batch) for batch in (1, 17, 1024, 5000)]
    assert max(values) - min(values) < 1e-9


@pytest.fixture
def world() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    shared = random.normal(size=(6000, 5)) @ random.normal(size=(5, 20))
    return [shared[:, :12] * 3 + 5, shared[:, 12:] + random.normal(size=(6000, 8)) * 0.1]


def rule(k: int, batch: int, select: str = "batchtopk") -> dict:
    """What of a recipe decides a measurement."""
    return {"select": select, "k": k, "batch": batch}


def fitted_like(data, normalise: str = "none") -> Dictionary:
    """An untrained dictionary with the standards of `data` and a threshold of its own."""
    recipe = RECIPE | {"features": 64, "tied": 8, "exclusive": 4, "start": 1.0}
    dictionary = begun(recipe, data.widths, NORMALISERS[normalise].fitted(data), seed=1)
    dictionary.threshold.fill_(0.3)
    return dictionary.requires_grad_(False)


def test_measure_is_the_same_from_any_chunks_and_shards(world, aligned_rows) -> None:
    layouts = [(10_000, 512), (10_000, 37), (1999, 512), (700, 701)]
    found = []
    for number, (shard, chunk) in enumerate(layouts):
        data = aligned_rows(world, shard, chunk, folder=str(number))
        baseline = principal_components(data)
        measured = measure(
            fitted_like(data), baseline, data, ["a", "b"], rule(4, 256), torch.device("cpu")
        )
        found.append(measured)
    for number, other in enumerate(found[1:], start=1):
        for (mode, source), value in other.fve.items():
            # Rows are mixed inside a shard, and a code of BatchTopK depends on its batch.
            if mode != "batchtopk" or layouts[number][0] == layouts[0][0]:
                assert value == pytest.approx(found[0].fve[mode, source], abs=1e-9)
        assert (other.fired == found[0].fired).all()


def test_threshold_mode_is_the_same_from_any_batch(world, aligned_rows) -> None:
    data = aligned_rows(world)
    baseline = principal_components(data)
    found = [
        measure(fitted_like(data), baseline, data, ["a", "b"], rule(4, batch), torch.device("cpu"))
        for batch in (64, 1000)
    ]
    for source in ("a", "b", POOLED):
        one, other = (measured.fve["threshold", source] for measured in found)
        assert one == pytest.approx(other, abs=1e-9)
    assert (found[0].fired_in == found[1].fired_in).all()


def test_measure_without_a_baseline_gives_what_the_threshold_gives_and_no_more(
    world, aligned_rows
) -> None:
    data, names = aligned_rows(world), ["a", "b"]
    whole, bare = (
        measure(fitted_like(data), baseline, data, names, rule(4, 256), torch.device("cpu"))
        for baseline in (principal_components(data), None)
    )
    assert bare.fve == {key: value for key, value in whole.fve.items() if key[0] == THRESHOLD}
    assert bare.l0 == {THRESHOLD: whole.l0[THRESHOLD]}
    for name in ("fired", "activation", "fired_in", "domain_rows"):
        assert (getattr(bare, name) == getattr(whole, name)).all()


@pytest.mark.parametrize("normalise", NORMALISERS)
def test_sums_agree_with_a_plain_dense_computation(
    world, aligned_rows, monkeypatch, normalise: str
) -> None:
    monkeypatch.setattr(without_massive, "MASSIVE_NORM", 1.5)  # so that there are massive rows
    data = aligned_rows(world)
    dictionary = fitted_like(data, normalise)
    with unchanged(dictionary):
        measured = measure(
            dictionary,
            principal_components(data, normalise),
            data,
            ["a", "b"],
            rule(4, 512),
            torch.device("cpu"),
        )
    dictionary = in_float64(dictionary)
    world = [part.astype(np.float32) for part in world]  # as they are stored
    rows = dictionary.standardise([torch.from_numpy(part) for part in world])
    decoder = torch.cat(dictionary.decoders(), dim=1)
    encoder = torch.zeros_like(decoder)
    bias = torch.zeros(len(encoder), dtype=torch.float64)
    for block in dictionary.blocks.values():
        encoder[block.features, block.columns] = block.encoder
        bias[block.features] = block.encoder_bias
    before = rows @ encoder.T + bias
    codes = before.relu() * (before.relu() * dictionary.norms().sum(1) >= dictionary.threshold)
    residual = rows - codes @ decoder - dictionary.decoder_bias
    norms = [torch.from_numpy(part).norm(dim=1) for part in world]
    small = torch.stack([own <= 1.5 * own.median() for own in norms]).all(0)
    assert measured.massive_rows == (~small).sum() > 0
    _, axes = torch.linalg.eigh(rows.T @ rows)
    by_components = rows - rows @ axes[:, -4:] @ axes[:, -4:].T
    for source, columns in (("a", slice(0, 12)), ("b", slice(12, 20))):
        part = rows[:, columns]
        total = (part - part.mean(0)).square().sum()
        wanted = 1 - float(residual[:, columns].square().sum() / total)
        assert measured.fve["threshold", source] == pytest.approx(wanted, abs=1e-6)
        assert measured.fve["mean", source] == pytest.approx(0, abs=1e-6)
        wanted = 1 - float(by_components[:, columns].square().sum() / total)
        assert measured.fve["pca", source] == pytest.approx(wanted, abs=1e-4)
        kept = part[small]
        total = (kept - kept.mean(0)).square().sum()
        wanted = 1 - float(residual[small][:, columns].square().sum() / total)
        assert measured.fve_without["threshold", source] == pytest.approx(wanted, abs=1e-6)
    assert (measured.fired == (codes > 0).sum(0).numpy()).mean() > 0.95
    assert measured.l0["threshold"] == pytest.approx(
        float((codes > 0).sum(1).double().mean()), rel=0.01
    )
    assert measured.fired_in.sum((0, 2)).tolist() == measured.fired.tolist()


def test_firings_are_counted_by_half_and_domain(world, aligned_rows) -> None:
    data = aligned_rows(world, group_documents=4)
    dictionary = fitted_like(data)
    measured = measure(
        dictionary, principal_components(data), data, ["a", "b"], rule(4, 512), torch.device("cpu")
    )
    domain, of = (torch.from_numpy(data.column(n)).long() for n in ("domain", "half"))
    assert torch.equal(of, torch.from_numpy(data.column("group") % 2))  # groups are of one size
    (sources,) = data.in_order(data.count)
    (row, feature), _ = dictionary.encode(dictionary.standardise(sources))
    for half, place in itertools.product(range(2), range(2)):
        inside = (of == half) & (domain == place)
        assert measured.domain_rows[half, place] == inside.sum() >= 1000
        wanted = torch.bincount(feature[inside[row]], minlength=64)
        assert measured.fired_in[half, :, place].tolist() == wanted.tolist()


def test_components_explain_what_theory_says(aligned_rows) -> None:
    random = np.random.default_rng(0)
    variances = np.array([8.0, 4.0, 2.0, 1.0, 1.0])
    basis = np.linalg.qr(random.normal(size=(5, 5)))[0]
    data = aligned_rows([random.normal(size=(40_000, 5)) * variances**0.5 @ basis + 3])
    baseline = principal_components(data)
    shape = Shape.of(RECIPE | {"features": 8}, [5])
    dictionary = Dictionary(shape).requires_grad_(False)
    ((mean, variance),) = data.moments()
    dictionary.mean.copy_(torch.from_numpy(mean))
    dictionary.scale.fill_(variance**0.5)
    for k, wanted in ((1, 8 / 16), (2, 12 / 16), (5, 1.0)):
        measured = measure(dictionary, baseline, data, ["a"], rule(k, 1000), torch.device("cpu"))
        assert measured.fve["pca", "a"] == pytest.approx(wanted, abs=0.01)
        assert measured.fve["mean", "a"] == pytest.approx(0, abs=1e-9)


def test_batchtopk_fires_k_a_row_and_rows_carry_all_that_is_needed(world, aligned_rows) -> None:
    data = aligned_rows(world)
    measured = measure(
        fitted_like(data), principal_components(data), data, ["a", "b"], rule(4, 500),
        torch.device("cpu"),
    )  # fmt: skip
    assert measured.l0["batchtopk"] == pytest.approx(4)
    about = {"comparison": "c", "member": "m", "recipe": "r", "seed": 0, "k": 4, "features": 64}
    found = fve_rows(measured, ["a", "b"], 3, about)
    assert {(row["mode"], row["source"]) for row in found} == {
        (mode, source) for mode in ("threshold", "batchtopk") for source in ("a", "b", "pooled")
    }
    pooled, one, two = (
        next(r["fve"] for r in found if r["mode"] == "threshold" and r["source"] == source)
        for source in ("pooled", "a", "b")
    )
    assert pooled == pytest.approx((one + two) / 2)
    assert found[0]["dead_share"] == 3 / 64
    assert "SSE/SST" in found[0]["definition"]


def test_topk_fires_k_in_every_row_whatever_the_batch(world, aligned_rows) -> None:
    data = aligned_rows(world)
    baseline = principal_components(data)
    found = [
        measure(fitted_like(data), baseline, data, ["a", "b"], rule(4, batch, "topk"),
                torch.device("cpu"))
        for batch in (64, 500)
    ]  # fmt: skip
    for measured in found:
        assert measured.l0["topk"] == pytest.approx(4)
        assert set(measured.l0) == {"threshold", "topk"}
    assert found[0].fve["topk", "a"] == pytest.approx(found[1].fve["topk", "a"], abs=1e-9)


@pytest.mark.parametrize("name", ["model", "hook", "exponent", "dtype"])
def test_a_dictionary_of_other_rows_is_refused(world, aligned_rows, name: str) -> None:
    data = aligned_rows(world)
    check_models(data, {"origins": data.origins}, "d.safetensors")
    other = [dict(origin) for origin in data.origins]
    other[1][name] = "another"
    with pytest.raises(UserError, match=r"d\.safetensors: fitted on other models"):
        check_models(data, {"origins": other}, "d.safetensors")
