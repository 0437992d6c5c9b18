"""A pass that begins behind blocks already run is the whole pass, to the bit, and does not run them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from families import FAMILIES, ODD, PARALLEL, tiny
from moediff.hooks.capture import Capture
from moediff.hooks.interventions import ablate, intervene
from moediff.hooks.points import HOOKS, Point
from moediff.hooks.resuming import Beginning
from moediff.hooks.routing import freezing, recording
from moediff.models.families import blocks
from moediff.models.inputs import model_inputs, packed_inputs

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(1, 60, (2, 12))
STARTS = np.zeros(TOKENS.shape, bool)
STARTS[:, 0] = STARTS[0, 5] = True
MASK = torch.from_numpy(RANDOM.random(TOKENS.shape) < 0.6)


def logits(model, inputs: dict) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def calls(model) -> list[int]:
    """How often each block has run from now on: counted by its first part that is called."""
    counts = [0] * len(blocks(model))
    for layer, block in enumerate(blocks(model)):
        part = next(
            part
            for part in block.modules()
            if isinstance(part, nn.Linear) or "Conv1D" in str(type(part))
        )

        def count(*_: object, layer: int = layer) -> None:
            counts[layer] += 1

        part.register_forward_pre_hook(count)
    return counts


@pytest.mark.parametrize("family", [*FAMILIES, "llama4"])
def test_an_edited_pass_goes_on_from_what_was_kept(family: str) -> None:
    model = tiny(family)
    inputs = packed_inputs(model, TOKENS, STARTS)
    for point in (Point(hook, layer) for hook in HOOKS for layer in range(3)):
        begun = Beginning(model, point)
        with intervene(model, point, ablate(), MASK):
            whole = logits(model, inputs)
        with begun.kept(), Capture(model, [point]) as capture:
            capture(**inputs)
        for _ in range(2):  # what is kept is not changed by the pass that goes on from it
            with begun.skipped(), intervene(model, point, ablate(), MASK):
                assert torch.equal(logits(model, inputs), whole), point
        begun.prove(inputs)
        assert len(begun.blocks) == point.layer + (point.hook == "resid_post")


@pytest.mark.parametrize("family", [*PARALLEL, *ODD])
def test_a_family_of_another_form_goes_on_too_or_is_run_whole(family: str) -> None:
    model = tiny(family)
    inputs = model_inputs(TOKENS, STARTS & False, "cpu")
    whole, begun = logits(model, inputs), Beginning(model, Point("resid_post", 1))
    begun.prove(inputs)
    with begun.kept():
        logits(model, inputs)
    with begun.skipped():
        assert torch.equal(logits(model, inputs), whole)


@pytest.mark.parametrize(("hook", "skipped"), [("resid_post", 2), ("resid_pre", 1), ("mlp_out", 1)])
def test_blocks_before_the_point_are_not_run_again(hook: str, skipped: int) -> None:
    model = tiny("qwen3-moe")
    inputs, begun = packed_inputs(model, TOKENS, STARTS), Beginning(model, Point(hook, 1))
    counts = calls(model)
    with begun.kept():
        logits(model, inputs)
    with begun.skipped():
        logits(model, inputs)
    assert counts == [1] * skipped + [2] * (3 - skipped)
    logits(model, inputs)  # they are there again
    assert counts == [2] * skipped + [3] * (3 - skipped)


def test_routing_behind_the_point_is_frozen_as_in_a_whole_pass() -> None:
    model, point = tiny("olmoe"), Point("resid_post", 0)
    inputs, begun = packed_inputs(model, TOKENS, STARTS), Beginning(model, point)
    with recording(model, point) as clean:
        logits(model, inputs)
    with intervene(model, point, ablate(), MASK), freezing(model, clean):
        whole = logits(model, inputs)
    with begun.kept():
        logits(model, inputs)
    with begun.skipped(), recording(model, point) as again:
        logits(model, inputs)
    assert all(map(torch.equal, clean[1], again[1]))
    with begun.skipped(), intervene(model, point, ablate(), MASK), freezing(model, again):
        assert torch.equal(logits(model, inputs), whole)


def whole_again(model, point: Point) -> bool:
    """Whether after the proof no block of a model is skipped, and its passes are whole ones."""
    inputs, begun = packed_inputs(model, TOKENS, STARTS), Beginning(model, point)
    whole = logits(model, inputs)
    begun.prove(inputs)
    with begun.kept():
        logits(model, inputs)
    with begun.skipped():
        return torch.equal(logits(model, inputs), whole) and begun.blocks == []


def test_a_model_whose_later_block_reads_an_earlier_one_is_run_whole() -> None:
    model = tiny("llama")
    first, last = blocks(model)[0], blocks(model)[2]
    first.register_forward_hook(lambda block, _, out: setattr(last, "more", out.mean()))
    last.register_forward_hook(lambda block, _, out: out + block.more)
    assert whole_again(model, Point("resid_post", 1))


def test_a_model_whose_later_block_misses_an_earlier_one_is_run_whole() -> None:
    model, left = tiny("llama"), []
    first, last = blocks(model)[0], blocks(model)[2]
    plain = first.forward

    def leaving(*given: object, **named: object) -> object:
        left.append(1)
        return plain(*given, **named)

    first.forward = leaving
    last.register_forward_pre_hook(lambda *_: left.pop() and None)
    assert whole_again(model, Point("resid_post", 1))
    assert first.forward is leaving
