"""A model with edited activations goes on from what is put in place; what is not changed stays to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import MOE
from families import FAMILIES, tiny
from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.interventions import EDITS, ablate, add, intervene, replace
from moediff.hooks.points import HOOKS, Point
from moediff.hooks.proofs import prove
from moediff.models.families import blocks
from moediff.models.inputs import packed_inputs

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(1, 60, (2, 12))
STARTS = np.zeros(TOKENS.shape, bool)
STARTS[:, 0] = STARTS[0, 5] = STARTS[1, 9] = True
MASK = torch.from_numpy((RANDOM.random(TOKENS.shape) < 0.6) & ~STARTS)
ROWS = int(MASK.sum())


def logits(model, inputs: dict) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def read(model, point: Point, inputs: dict) -> Tensor:
    with Capture(model, [point]) as capture:
        return capture(**inputs).points[point]


def random_rows() -> Tensor:
    random = torch.Generator().manual_seed(1)
    return 3.0 * torch.randn(ROWS, 32, generator=random, dtype=torch.float64)


def scaled_residual(model, family: str) -> None:
    """Let Granite scale what is added to its stream, by no power of two."""
    if family == "granite-moe":
        for block in blocks(model):
            block.residual_multiplier = 0.22


@pytest.mark.parametrize("family", [*FAMILIES, "llama4"])
def test_the_model_goes_on_from_what_is_put_in_place(family: str) -> None:
    """Read by hooks of `Capture`, which the proofs show to be what the block computes from."""
    model, every = tiny(family), [Point(hook, 1) for hook in HOOKS]
    scaled_residual(model, family)
    inputs = packed_inputs(model, TOKENS, STARTS)
    clean, values = logits(model, inputs), random_rows()
    with Capture(model, every) as capture:
        before = capture(**inputs).points
    for place, point in enumerate(every):
        with intervene(model, point, replace(values), MASK):
            if point.hook != "resid_post":  # which is no sum of the parts before it then
                prove(model, every, inputs)
            with Capture(model, every) as capture:
                after = capture(**inputs).points
            changed = logits(model, inputs)
        torch.testing.assert_close(after[point][MASK], values.float(), rtol=1e-5, atol=1e-5)
        assert torch.equal(after[point][~MASK], before[point][~MASK])
        for earlier in every[:place]:
            if (earlier.hook, point.hook) != ("attn_out", "resid_mid"):  # which it is put into
                assert torch.equal(after[earlier], before[earlier])
        assert not torch.allclose(changed, clean, atol=1e-2)
        assert torch.equal(logits(model, inputs), clean)  # the hooks are off again


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [*FAMILIES, "llama4"])
def test_edits_that_change_nothing_give_the_same_logits_to_the_bit(
    family: str, dtype: torch.dtype
) -> None:
    model = tiny(family).to(dtype)
    scaled_residual(model, family)
    inputs = packed_inputs(model, TOKENS, STARTS)
    clean = logits(model, inputs)
    for point in (Point(hook, layer) for hook in HOOKS for layer in range(3)):
        rows = read(model, point, inputs)[MASK]
        for edit in (replace(rows), replace(rows.double()), add(torch.zeros(32)), add(0 * rows)):
            with intervene(model, point, edit, MASK):
                assert torch.equal(logits(model, inputs), clean), point
        with intervene(model, point, ablate(), MASK & False):
            assert torch.equal(logits(model, inputs), clean), point


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", ["llama", "gemma3", "granite-moe", "llama4"])
def test_edits_do_what_they_say(family: str, hook: str) -> None:
    model, point = tiny(family), Point(hook, 1)
    scaled_residual(model, family)
    inputs = packed_inputs(model, TOKENS, STARTS)
    rows, values = read(model, point, inputs)[MASK], random_rows().float()
    mean = values.mean(0)
    for edit, wanted in (
        (replace(values), values),
        (replace(mean), mean.expand(ROWS, -1)),
        (add(values), rows + values),
        (add(mean), rows + mean),
        (ablate(), torch.zeros_like(rows)),
        (ablate(mean), mean.expand(ROWS, -1)),
    ):
        with intervene(model, point, edit, MASK):
            found = read(model, point, inputs)
        torch.testing.assert_close(found[MASK], wanted, rtol=1e-5, atol=1e-5)
    assert set(EDITS) == {"replace", "add", "ablate"}


def test_rows_of_the_middle_are_off_by_two_roundings_at_most() -> None:
    """They are put in place as a difference that is added again; see `intervene`."""
    model, point = tiny("llama"), Point("resid_mid", 1)
    inputs, values = packed_inputs(model, TOKENS, STARTS), 1e-3 * random_rows()
    before = read(model, Point("resid_pre", 1), inputs)[MASK].double()
    with intervene(model, point, replace(values), MASK):
        found = read(model, point, inputs)[MASK].double()
    unit = torch.finfo(torch.float32).eps / 2
    room = unit * ((values - before).abs() + values.abs() + (values - before).abs() * unit)
    assert ((found - values).abs() <= room).all()
    with intervene(model, point, ablate(), MASK):
        assert not read(model, point, inputs)[MASK].any()  # this one exactly


def test_edits_nest() -> None:
    model = tiny("qwen3-moe")
    inputs = packed_inputs(model, TOKENS, STARTS)
    first, second = Point("resid_post", 0), Point("resid_mid", 1)
    with intervene(model, first, replace(torch.ones(32)), MASK):
        with intervene(model, first, add(torch.ones(32)), MASK):
            assert (read(model, first, inputs)[MASK] == 2).all()
            with intervene(model, second, replace(torch.ones(32)), MASK):
                torch.testing.assert_close(
                    read(model, second, inputs)[MASK], torch.ones(ROWS, 32), rtol=0, atol=1e-6
                )
    assert (read(model, first, inputs)[MASK] != 2).any()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_what_is_added_can_be_learnt() -> None:
    """Gradients pass through an edit: a step against one lowers what it is the gradient of."""
    model, point = tiny("olmoe"), Point("resid_mid", 1)
    inputs, direction = packed_inputs(model, TOKENS, STARTS), torch.zeros(32, requires_grad=True)
    losses = []
    for _ in range(2):
        with intervene(model, point, add(direction), MASK):
            loss = model(**inputs).logits[..., 3].mean()
        losses.append(loss.item())
        (slope,) = torch.autograd.grad(loss, direction)
        direction = (direction - 1e-2 * slope / slope.norm()).detach().requires_grad_()
    assert losses[1] < losses[0]


def test_what_does_not_fit_is_refused(tiny_model) -> None:
    model, values = tiny_model(MOE).eval(), random_rows()
    for point, message in (
        (Point("resid_post", 2), "layer 2 does not exist"),
        (Point("mlp_in", 0), "hook mlp_in does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            with intervene(model, point, replace(values), MASK):
                pass
    inputs = packed_inputs(model, TOKENS, STARTS)
    for edit in (replace(values[1:]), replace(values[:, 1:]), add(values[1:]), ablate(values[1:])):
        with pytest.raises(UserError, match=r"do not fit the rows .* that are edited"):
            with intervene(model, Point("mlp_out", 0), edit, MASK):
                logits(model, inputs)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
