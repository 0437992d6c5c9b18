"""Blocks, ties, selection and files of a dictionary, and what fitting must find in known worlds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from conftest import RECIPE, dense_tables, unchanged
from moediff.core import artifact
from moediff.core.errors import DamagedError
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.fitting import exact_threshold
from moediff.dictionaries.trainer import Fitter

CPU = torch.device("cpu")


def random_rows(count: int, width: int, seed: int = 0, rank: int = 24) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    codes = torch.randn(count, rank, generator=random).relu()
    return codes @ torch.randn(rank, width, generator=random) / rank


@pytest.mark.parametrize(
    ("tie", "tied", "exclusive"), [("norm", 16, 8), ("direction", 16, 8), ("norm", 0, 0)]
)
def test_blocks_keep_their_promise_through_training(tie: str, tied: int, exclusive: int) -> None:
    recipe = RECIPE | {"features": 64, "tie": tie, "tied": tied, "exclusive": exclusive, "k": 6}
    dictionary = Dictionary(Shape.of(recipe, [10, 10]))
    fitter = Fitter(dictionary, recipe)
    for step in range(20):
        fitter.update(random_rows(128, 20, seed=step))
    a, b = dictionary.decoders()
    norms = dictionary.norms()
    torch.testing.assert_close(norms[:tied, 0], norms[:tied, 1])
    if tie == "direction" and tied:
        torch.testing.assert_close(a[:tied], b[:tied])
    common = dictionary.shape.common
    assert (b[common : common + exclusive] == 0).all()
    assert (a[common + exclusive :] == 0).all()
    assert (a[common : common + exclusive] != 0).any(1).all()
    blocks = Counter(dictionary.shape.blocks())
    assert sum(blocks.values()) == 64
    assert blocks["tied"] == tied
    assert blocks["exclusive-0"] == blocks["exclusive-1"] == exclusive


@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize("tied", [0, 8])
def test_one_training_step_equals_the_dense_form(screen: bool, tied: int) -> None:
    recipe = RECIPE | {"features": 40, "tied": tied, "exclusive": 4, "k": 5, "clip": 1e9,
                       "screen": screen}  # fmt: skip
    rows = random_rows(64, 22)
    sparse, dense = (Dictionary(Shape.of(recipe, [12, 10]), seed=3) for _ in range(2))
    fitter = Fitter(sparse, recipe)
    before = {name: value.clone() for name, value in sparse.named_parameters()}

    decoder, encoder, bias = dense_tables(dense)
    activation = (rows @ encoder.T + bias).relu()
    scores = activation * dense.norms().sum(1)
    edge = scores.flatten().topk(5 * 64).values.min()
    guess = (activation * (scores >= edge)) @ decoder + dense.decoder_bias
    ((rows - guess).square().sum() / (64 * 2)).backward()

    found = {}
    step = fitter.optimizer.step
    fitter.optimizer.step = lambda: found.update(
        {name: value.grad.clone() for name, value in sparse.named_parameters()}
    )
    measured = fitter.update(rows)
    fitter.optimizer.step = step
    assert measured["error"] == pytest.approx(
        float((rows - guess).detach().square().sum()), rel=1e-5
    )
    for name, value in dense.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(before[name], value.detach())


@pytest.mark.parametrize("cost", [0, 20])
def test_aux_reaches_the_encoders_of_dead_features_and_nothing_else(monkeypatch, cost) -> None:
    monkeypatch.setattr("moediff.dictionaries.entries.ENTRY_COST", cost)
    recipe = RECIPE | {"features": 32, "k": 2, "aux_weight": 1.0}
    dictionary = Dictionary(Shape.of(recipe, [10, 6]))
    fitter = Fitter(dictionary, recipe)
    rows, residual = random_rows(64, 16), random_rows(64, 16, seed=1)
    dead = torch.tensor([3, 7, 20])
    fitter._auxiliary(rows, residual, dead, dictionary.norms().sum(1)).backward()
    block = dictionary.blocks["free"]
    for table in (block.encoder, block.encoder_bias, block.weight):
        reached = table.grad.view(32, -1).abs().sum(1) > 0
        assert set(reached.nonzero().squeeze(1).tolist()) <= set(dead.tolist())
        assert reached.sum() >= 2
    assert dictionary.decoder_bias.grad is None


@pytest.mark.parametrize("aux_k", [1, 3, 50])
def test_aux_by_entries_equals_aux_by_products(monkeypatch, aux_k: int) -> None:
    recipe = RECIPE | {"features": 60, "tied": 12, "exclusive": 8, "aux_k": aux_k}
    rows, residual = random_rows(64, 22), random_rows(64, 22, seed=1)
    dead = torch.tensor([0, 2, 5, 11, 12, 30, 31, 43, 44, 50, 52, 53, 59])
    found = []
    for cost in (0, 1000):
        monkeypatch.setattr("moediff.dictionaries.entries.ENTRY_COST", cost)
        dictionary = Dictionary(Shape.of(recipe, [12, 10]), seed=1)
        fitter = Fitter(dictionary, recipe)
        loss = fitter._auxiliary(rows, residual, dead, dictionary.norms().sum(1))
        loss.backward()
        gradients = {n: p.grad for n, p in dictionary.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_dead_features_come_back() -> None:
    """Biases of -100, where no gradient reaches: AuxK brings the features back, its absence does not."""
    recipe = RECIPE | {"features": 100, "k": 8, "rows": 400 * 512, "dead_after": 0.05, "lr": 5e-3}
    shares = {}
    for weight in (0.0, 0.03125):
        dictionary = Dictionary(Shape.of(recipe, [24]))
        with torch.no_grad():
            dictionary.blocks["free"].encoder_bias[:30] = -100.0
        fitter = Fitter(dictionary, recipe | {"aux_weight": weight})
        for step in range(400):
            fitter.update(random_rows(512, 24, seed=step, rank=48))
        shares[weight] = float((fitter.silent > fitter.dead_after).double().mean())
    assert shares[0.0] >= 0.3
    assert shares[0.03125] < 0.05


def test_save_and_load_give_the_same_codes(tmp_path: Path) -> None:
    recipe = RECIPE | {"features": 48, "tied": 8, "exclusive": 4}
    dictionary = Dictionary(Shape.of(recipe, [12, 10]), seed=5)
    dictionary.threshold.fill_(0.2)
    dictionary.mean.normal_(generator=torch.Generator().manual_seed(0))
    dictionary.save(tmp_path / "one.safetensors", {"format": artifact.FORMAT, "recipe": recipe})
    dictionary.save(tmp_path / "two.safetensors", {"recipe": recipe, "format": artifact.FORMAT})
    loaded, metadata = Dictionary.load(tmp_path / "one.safetensors")
    assert metadata["recipe"] == recipe
    rows = random_rows(32, 22)
    torch.testing.assert_close(loaded.reconstruct(rows), dictionary.reconstruct(rows))
    one, two = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    (tmp_path / "one.safetensors").write_bytes(one[: len(one) // 2])
    with pytest.raises(DamagedError, match=r"one\.safetensors"):
        Dictionary.load(tmp_path / "one.safetensors")


@pytest.mark.parametrize("tie", ["norm", "direction"])
def test_in_float64_gives_a_copy_and_leaves_the_dictionary_as_it_was(tie: str) -> None:
    recipe = RECIPE | {"features": 40, "tie": tie, "tied": 8, "exclusive": 4, "k": 5}
    dictionary = Dictionary(Shape.of(recipe, [12, 12]), seed=3)
    dictionary.threshold.fill_(0.1)
    with unchanged(dictionary):
        exact = in_float64(dictionary)
        rows = random_rows(64, 24).double()
        exact.reconstruct(rows)
        exact.threshold.fill_(9.0)
    assert all(parameter.requires_grad for parameter in dictionary.parameters())
    assert not any(parameter.requires_grad for parameter in exact.parameters())
    assert {tensor.dtype for tensor in exact.state_dict().values()} == {torch.float64}
    exact.threshold.copy_(dictionary.threshold)
    torch.testing.assert_close(
        exact.reconstruct(rows), dictionary.double().reconstruct(rows), rtol=0, atol=0
    )


def test_in_float64_of_a_float64_dictionary_is_itself() -> None:
    exact = in_float64(Dictionary(Shape.of(RECIPE | {"features": 40, "k": 5}, [12])))
    assert in_float64(exact) is exact
    assert in_float64(exact, CPU) is exact


@pytest.mark.parametrize("threshold", [0.0, 0.3], ids=["many fire", "few fire"])
def test_a_code_is_the_same_where_bfloat16_is_fast_and_where_it_is_not(
    threshold: float, monkeypatch
) -> None:
    recipe = RECIPE | {"features": 400, "tied": 8, "exclusive": 40, "k": 5}
    dictionary = in_float64(Dictionary(Shape.of(recipe, [12, 20]), seed=3))
    dictionary.threshold.fill_(threshold)
    rows = random_rows(64, 32).double()
    codes = []
    for fast in (False, True):
        monkeypatch.setattr(
            "moediff.dictionaries.dictionary.has_bfloat16", lambda device, fast=fast: fast
        )
        codes.append([dictionary.encode(rows, rule) for rule in (None, ("topk", 5))])
    for (wanted, values), (found, exact) in zip(*codes, strict=True):
        assert len(values)
        assert all(map(torch.equal, wanted, found))
        torch.testing.assert_close(exact, values, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rank", ["summed", "mixed"])
def test_values_at_entries_are_those_of_encode_and_0_where_none_fires(rank: str) -> None:
    recipe = RECIPE | {"features": 40, "tied": 8, "exclusive": 4, "k": 5, "rank": rank}
    dictionary = in_float64(Dictionary(Shape.of(recipe, [12, 12]), seed=3))
    dictionary.threshold.fill_(0.3)
    rows = random_rows(64, 24).double()
    (row, feature), values = dictionary.encode(rows)
    dense = torch.zeros(64, 40, dtype=torch.float64)
    dense[row, feature] = values
    every = torch.cartesian_prod(torch.arange(64), torch.arange(40)).unbind(1)
    found = dictionary.values_at(rows, every)
    assert 0 < len(values) < found.numel()
    torch.testing.assert_close(found.view(64, 40), dense, rtol=1e-12, atol=0)
    some = torch.arange(0, 64 * 40, 7)
    assert torch.equal(dictionary.values_at(rows, (every[0][some], every[1][some])), found[some])
    nothing = torch.empty(0, dtype=torch.int64)
    assert len(dictionary.values_at(rows, (nothing, nothing))) == 0


def test_threshold_fires_k_features_on_the_held_out_rows(aligned_rows) -> None:
    data = aligned_rows([random_rows(5000, 20).numpy()])
    dictionary = Dictionary(Shape.of(RECIPE | {"features": 96}, [20]))
    held_out = data.select(lambda chunk: data.column_of(chunk, "document") % 5 < 3)
    found = [exact_threshold(dictionary, data, held_out, 7, batch) for batch in (64, 1000)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    dictionary.threshold.fill_(found[0])
    rows = torch.cat([part[0] for part in data.selected(held_out, 500)])
    (fired, _), _ = dictionary.encode(rows)
    assert len(fired) == pytest.approx(7 * 3000, abs=3)


# --- what fitting must find -----------------------------------------------------------------
