"""Every seam of a recipe against its dense form in float64: selection, losses, penalties, prefixes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import PRESETS, RECIPE, SCHEMA, dense_tables
from moediff.config.complete import complete
from moediff.core.errors import ConfigError
from moediff.dictionaries.blocks import RANKS, Shape, mixed, summed
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.objectives import norm, squared
from moediff.dictionaries.trainer import Fitter

WIDTHS, F, ROWS = (12, 10), 40, 64


def penalty(weight: float, tied: float = 1.0, ramp: float = 0.0, **more: float) -> dict:
    return {"weight": weight, "tied": tied, "ramp": ramp, **more}


CHANGES: dict[str, dict[str, Any]] = {
    "ours": {},
    "no momentum": {"betas": [0, 0.999]},
    "topk": {"select": "topk"},
    "un-squared": {"loss": "norm"},
    "mixed": {"rank": "mixed", "loss": "norm"},
    "l1": {"penalties": {"l1": penalty(0.3, tied=0.7)}},
    "two penalties": {"penalties": {"l1": penalty(0.1), "tanh": penalty(0.2, tied=0.5, scale=4.0)}},
    "relu": {"select": "relu", "penalties": {"l1": penalty(0.1)}},
    "matryoshka": {"prefixes": [6, 0.5, 1.0], "exclusive": 0},
    "jumprelu": {
        "select": "jumprelu",
        "penalties": {"l0": penalty(0.05, ramp=0.5)},
        "bandwidth": 0.2,
    },
}


def made(change: dict, seed: int = 3) -> tuple[dict, Dictionary, Tensor]:
    recipe = RECIPE | {"features": F, "tied": 8, "exclusive": 4, "k": 5, "clip": 1e9} | change
    source = torch.Generator().manual_seed(seed)
    rows = torch.randn(ROWS, sum(WIDTHS), generator=source) / sum(WIDTHS) ** 0.5
    dictionary = Dictionary(Shape.of(recipe, WIDTHS), seed=seed)
    with torch.no_grad():  # norms that differ by source and feature, biases that are not zero
        for parameter in dictionary.parameters():
            parameter.mul_(0.5 + torch.rand(parameter.shape, generator=source))
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=source))
    return recipe, dictionary, rows


def dense_loss(recipe: dict, model: Dictionary, rows: Tensor, step: Tensor | None) -> Tensor:
    """The loss by whole matrices and autograd; `step` [row, feature] 1 where it fires, if given."""
    decoder, encoder, bias = dense_tables(model)
    norms = torch.stack([part.norm(dim=1) for part in decoder.split(WIDTHS, dim=1)], dim=1)
    before = (rows @ encoder.T + bias).relu()
    scores = (before * RANKS[recipe["rank"]](norms)).detach()
    if recipe["select"] == "batchtopk":
        fires = scores >= scores.flatten().topk(recipe["k"] * ROWS).values.min()
    elif recipe["select"] == "topk":
        fires = scores >= scores.topk(recipe["k"], dim=1).values.amin(1, keepdim=True)
    else:
        fires = scores > 0
    code = before * (fires & (scores > 0) if step is None else step)
    total = torch.zeros((), dtype=rows.dtype)
    prefixes = [p if isinstance(p, int) else round(p * F) for p in recipe["prefixes"]]
    for stop in prefixes:
        residual = rows - code[:, :stop] @ decoder[:stop] - model.decoder_bias
        parts = residual.split(WIDTHS, dim=1)
        each = [
            (p.square().sum(1) if recipe["loss"] == "squared" else p.norm(dim=1)) for p in parts
        ]
        total = total + torch.stack(each).mean() / len(prefixes)
    tied = torch.arange(F) < 8
    sizes = torch.where(tied, norms.mean(1), norms.sum(1))
    for name, settings in recipe["penalties"].items():
        if name == "l0":
            continue
        weight = torch.where(tied, settings["weight"] * settings["tied"], settings["weight"])
        term = code * sizes
        term = torch.tanh(settings["scale"] * term) if name == "tanh" else term
        total = total + (weight * term).sum() / ROWS
    return total


def gradients(fitter: Fitter, rows: Tensor) -> dict[str, Tensor]:
    """Gradients of one step."""
    found: dict[str, Tensor] = {}
    fitter.optimizer.step = lambda: found.update(
        {name: value.grad.clone() for name, value in fitter.trained.named_parameters()}
    )
    fitter.update(rows)
    return found


@pytest.mark.parametrize("cost", [0, 10_000], ids=["by entries", "by products"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_step_has_the_gradients_of_its_dense_form(name: str, cost: int, monkeypatch) -> None:
    monkeypatch.setattr("moediff.dictionaries.entries.ENTRY_COST", cost)
    recipe, model, rows = made(CHANGES[name])
    fitter = Fitter(model, recipe)
    step = None
    if name == "jumprelu":  # which entries fire is known here by the scores themselves
        scores, _ = model.score(rows)
        step = (scores.all >= fitter.rule.threshold.detach()).double()
    found = gradients(fitter, rows)
    _, twin, _ = made(CHANGES[name])
    twin.double()
    dense_loss(recipe, twin, rows.double(), step).backward()
    for parameter, value in twin.named_parameters():
        scale = float(value.grad.abs().max()) or 1.0
        torch.testing.assert_close(
            found[f"dictionary.{parameter}"].double(), value.grad, rtol=1e-4, atol=2e-5 * scale
        )


def test_thresholds_of_jumprelu_learn_through_the_rectangle() -> None:
    """By formula (2407.14435): -K/bandwidth times the error's pull on the value, and times lambda."""
    recipe, model, rows = made(CHANGES["jumprelu"] | {"tied": 0, "exclusive": 0})
    fitter = Fitter(model, recipe)
    fitter.step = fitter.steps  # the ramp is over
    found = gradients(fitter, rows)["rule.threshold"]
    scores, weight = model.score(rows)
    theta, width = torch.full((F,), 0.2), 0.2
    near = (scores.all - theta).abs() < width / 2
    values = scores.all / weight
    (block,) = model.blocks.values()
    code = values * (scores.all >= theta)
    residual = rows - code @ block.decoder() - model.decoder_bias
    pull = -2 * (residual @ block.decoder().T) / (ROWS * 2)  # of the loss on each value
    wanted = (near * (-1 / width) * (pull * values + 0.05 / ROWS)).sum(0)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-6)
    assert (near.sum(0) > 0).any()


def test_jumprelu_becomes_as_sparse_as_its_penalty_asks() -> None:
    rates = []
    for weight in (0.003, 0.03):
        recipe, model, _ = made({"select": "jumprelu", "tied": 0, "exclusive": 0, "batch": ROWS,
                                 "rows": 300 * ROWS, "lr": 3e-3,
                                 "penalties": {"l0": penalty(weight)}})  # fmt: skip
        fitter = Fitter(model, recipe)
        for step in range(300):
            measured = fitter.update(made({}, seed=step)[2])
        rates.append(measured["active"] / ROWS)
    assert rates[1] < 0.7 * rates[0]
    assert (fitter.rule.thresholds() >= 0).all()


def test_losses_and_ranks_by_hand() -> None:
    residual = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    assert float(squared(residual, [2, 1])) == pytest.approx((25 + 4) / 4)
    assert float(norm(residual, [2, 1])) == pytest.approx((5 + 0 + 0 + 2) / 4)
    norms = torch.tensor([[3.0, 4.0]])
    assert summed(norms).tolist() == [7.0]
    assert mixed(norms).tolist() == pytest.approx([0.7 * 5 + 0.3 * 7])


def test_k_falls_in_a_line_and_then_stays() -> None:
    recipe, model, rows = made(
        {"k": 5, "k_start": 15, "k_anneal": 0.5, "rows": 20 * ROWS, "batch": ROWS}
    )
    fitter = Fitter(model, recipe)
    found = [fitter.k(step) for step in range(20)]
    assert found == [*range(15, 5, -1), *[5] * 10]
    assert fitter.update(rows)["active"] == 15 * ROWS


def test_the_peak_rate_follows_width_and_length_unless_it_is_given() -> None:
    recipe, model, _ = made({"lr": None, "rows": 300 * ROWS, "batch": ROWS})
    assert Fitter(model, recipe).peak_rate == pytest.approx(0.06 / np.sqrt(22))
    longer = recipe | {"rows": 32 * 300 * ROWS}
    assert Fitter(model, longer).peak_rate == pytest.approx(0.06 / np.sqrt(22) / 2)
    assert Fitter(model, longer | {"lr": 1e-3}).peak_rate == 1e-3


def test_a_feature_is_dead_after_its_share_of_the_run_or_a_count_of_average_firings() -> None:
    recipe, model, _ = made({"rows": 100 * ROWS, "batch": ROWS, "k": 5})
    assert Fitter(model, recipe).dead_after == 128 * F / 5
    assert Fitter(model, recipe | {"dead_after": 0.1}).dead_after == pytest.approx(10 * ROWS)


def test_a_lifted_feature_is_reached_by_few_rows() -> None:
    """Lifted to bias 0, half of the rows would activate it, with values that rebuild nothing."""
    recipe, model, rows = made({"tied": 0, "exclusive": 0, "k": 2})
    fitter = Fitter(model, recipe)
    (block,) = model.blocks.values()
    with torch.no_grad():
        block.encoder_bias[7] = -50.0
    fitter._lift(torch.tensor([7]), rows)
    before = rows @ block.encoder[7] + block.encoder_bias[7]
    assert 1 <= int((before > 0).sum()) <= ROWS * 2 // F + 1
    untouched = block.encoder_bias.detach().clone()
    fitter._lift(torch.tensor([7]), rows)  # rows activate it already
    assert torch.equal(block.encoder_bias, untouched)


# --- recipes in a config ---

BASE = {
    "corpus": {
        "domains": {"made": {"source": "tales"}},
        "tokens": {"train": 20_000, "fit": 400_000, "validation": 10_000},
    },
    "models": {"one": {"train": {"d_model": 32, "layers": 2, "heads": 2, "ffn": 32}}},
    "training": {"seeds": [0, 1]},
    "comparisons": {"null": {"each": ["one", "one"]}},
}


def recipe_of(recipe: dict) -> dict:
    whole = complete(BASE | {"recipes": {"default": recipe}}, SCHEMA, PRESETS)
    return whole["recipes"]["default"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_whole_and_takes_a_step(preset: str) -> None:
    recipe = recipe_of(
        {"preset": preset, "features": 64, "k": 4, "k_start": None, "rows": 512, "batch": 64}
    )
    for key, value in PRESETS[preset].items():
        if key not in ("features", "k", "k_start", "rows", "batch", "penalties"):
            assert recipe[key] == value
    model = Dictionary(Shape.of(recipe, [12, 12]), 0, recipe["start"])
    fitter = Fitter(model, recipe)
    before = [parameter.clone() for parameter in model.parameters()]
    for seed in range(3):
        rows = torch.randn(64, 24, generator=torch.Generator().manual_seed(seed))
        assert np.isfinite(fitter.update(rows)["error"])
    assert any((a != b).any() for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"preset": "nobody"}, "preset: 'nobody' is not one of 2407.14435, 2603.05805"),
        ({"preset": 2603.05805}, "a number is written in quotes"),
        ({"select": "relu"}, "nothing makes it sparse"),
        ({"select": "jumprelu"}, "nothing makes it sparse"),
        ({"penalties": {"l0": {"weight": 1.0}}}, r"penalties\.l0: nothing learns from it"),
        ({"select": "relu", "penalties": {"l1": {"weight": 1.0}}, "k_start": 40}, "k_start"),
        ({"select": "relu", "penalties": {"l1": {"weight": 1.0}}, "screen": True}, "screen"),
        ({"k_start": 3}, r"k_start: 3 must lie between k \(12\) and features"),
        ({"prefixes": [0.5, 0.2, 1.0]}, "prefixes: .* must rise and end with all 2048"),
        ({"prefixes": [0.5]}, "prefixes"),
        ({"prefixes": [0.5, 1.0], "exclusive": 0.1}, "exclusive features come last"),
        ({"penalties": {"l2": {"weight": 1.0}}}, "unknown key 'l2'"),
        ({"penalties": {"l1": {}}}, "the key 'weight' is missing"),
    ],
)  # fmt: skip
def test_recipes_that_make_no_sense_are_refused_by_name(recipe: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        recipe_of(recipe)
    assert "\n" not in str(error.value)
