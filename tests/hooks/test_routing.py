"""A changed routing acts where it is asked to; no change gives the same logits to the bit."""

from __future__ import annotations

import pytest
import torch

from families import tiny
from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.hooks.routing import (
    CHANGES,
    force,
    keep,
    mask,
    rank,
    recording,
    routing,
    scale,
    silence,
)
from moediff.models.families import FAMILIES as TABLE
from moediff.models.families import routers, top_k
from rerouted import EVERY, LAYER, inputs_of, logits, routed, table

# --- nothing changed ----------------------------------------------------------------------------

# Each change with which a model is what it was, of its routing there.
IDENTITIES = {
    "keep": lambda used, k: [keep(k), keep(k, renormalise=True)],
    "mask": lambda used, k: [mask(())],
    "silence": lambda used, k: [silence(torch.zeros_like(used.gates, dtype=torch.bool))],
    "force": lambda used, k: [force(used.experts), force(used.experts, used.gates)],
    "scale": lambda used, k: [scale(1.0)],
}


def test_every_change_has_its_identity_and_every_family_its_model() -> None:
    # Two use one expert: see their own tests.
    assert {*IDENTITIES, "rank", "alone"} == set(CHANGES)
    assert {tiny(name).config.model_type for name in EVERY} == set(TABLE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", EVERY)
def test_changes_that_change_nothing_give_the_same_logits_to_the_bit(
    family: str, dtype: torch.dtype
) -> None:
    model = tiny(family).to(dtype)
    clean = logits(model)
    for layer in routers(model):
        used = routed(model, layer)
        for changes in IDENTITIES.values():
            for change in changes(used, used.gates.shape[-1]):
                with routing(model, change, [layer]):
                    assert torch.equal(logits(model), clean)
    for change in (keep(used.gates.shape[-1]), mask([]), scale(1.0)):
        with routing(model, change):
            assert torch.equal(logits(model), clean)
    assert torch.equal(logits(model), clean)
    assert not any("forward" in vars(router) for router in routers(model).values())


# Of Phi's two gates the second is often the larger, but not if it stands alone.
@pytest.mark.parametrize("family", [family for family in EVERY if family != "phimoe"])
def test_rank_1_is_the_model_that_uses_one_expert(family: str) -> None:
    """Where the first that is chosen is the first by gate, and the rule for one is that for k."""
    model, used = tiny(family), routed(tiny(family))
    with routing(model, rank(1), [LAYER]):
        first = table(routed(model))
    with routing(model, keep(1), [LAYER]):
        kept = table(routed(model))
    assert torch.equal(first > 0, kept > 0)
    config = model.config.get_text_config()
    total = TABLE[config.model_type].gates_sum(config)
    if total is None:  # a gate does not depend on what else is chosen
        torch.testing.assert_close(first, kept)
    else:
        torch.testing.assert_close(first.sum(1), torch.full((24,), total))
        with routing(model, keep(1, renormalise=True), [LAYER]):
            torch.testing.assert_close(table(routed(model)), first)
    one = tiny(family)
    if hasattr(routers(one)[LAYER], "norm_topk_prob") and not TABLE[config.model_type].choice_bias:
        routers(one)[LAYER].top_k = 1
        assert routed(one).gates.shape[-1] == 1
        with routing(model, rank(1), [LAYER]):
            assert torch.equal(logits(model), logits(one))
    assert used.gates.shape[-1] == top_k(model) > 1


# --- where a change acts ------------------------------------------------------------------------


def test_changes_act_in_the_layers_that_are_named_and_in_all_by_default() -> None:
    model = tiny("olmoe")
    clean = [table(routed(model, layer)) for layer in range(3)]
    with routing(model, keep(1), [1]):
        one = [table(routed(model, layer)) for layer in range(3)]
    with routing(model, keep(1)):
        all_layers = [table(routed(model, layer)) for layer in range(3)]
    assert [int((part > 0).sum(1).max()) for part in one] == [2, 1, 2]
    assert [int((part > 0).sum(1).max()) for part in all_layers] == [1, 1, 1]
    assert torch.equal(one[0], clean[0])
    with routing(model, scale(0.0), ()):
        assert torch.equal(table(routed(model, 0)), clean[0])


def test_changed_routing_is_what_is_read_and_recorded_whoever_came_first() -> None:
    model, point = tiny("mixtral"), Point("resid_post", 2)
    with Capture(model, [point], routing=True) as before, routing(model, keep(1)):
        assert ((before(**inputs_of(model)).routing[1].gates > 0).sum(-1) == 1).all()
    with recording(model, Point("resid_pre", 0)) as seen, routing(model, keep(1)):
        logits(model)
    assert all(((part.gates > 0).sum(-1) == 1).all() for part in seen.values())


def test_a_pass_that_fails_leaves_the_routers_as_they_were() -> None:
    model = tiny("llama4")
    clean, own = logits(model), routers(model)[1].forward
    routers(model)[1].forward = own  # as accelerate and others set it
    with pytest.raises(UserError, match="a token uses 2 experts: keep 1 to 2 of them, not 3"):
        with routing(model, keep(3)):
            logits(model)
    assert vars(routers(model)[1])["forward"] == own
    assert "forward" not in vars(routers(model)[2])
    assert torch.equal(logits(model), clean)


def test_a_model_that_accelerate_places_is_changed_too() -> None:
    accelerate = pytest.importorskip("accelerate")
    plain, model = tiny("deepseek-v3"), tiny("deepseek-v3")
    inputs = inputs_of(plain)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    for change in (mask([2, 3]), keep(2), keep(3)):
        with routing(plain, change), routing(model, change), torch.no_grad():
            assert torch.equal(model(**inputs).logits, plain(**inputs).logits)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_fewer_slots_do_not_depend_on_how_experts_are_computed(implementation: str) -> None:
    plain, model = tiny("qwen3-moe"), tiny("qwen3-moe")
    model.set_experts_implementation(implementation)
    for change in (rank(3), keep(1), force(torch.arange(24 * 3).view(2, 12, 3) % 8)):
        with routing(plain, change), routing(model, change):
            torch.testing.assert_close(logits(model), logits(plain), rtol=1e-4, atol=1e-4)


def test_changes_that_cannot_be_are_refused() -> None:
    model = tiny("qwen3-moe")
    with pytest.raises(UserError, match=r"Llama.*: layer 0 has no experts"):
        with routing(tiny("llama"), keep(1), [0]):
            pass
    with pytest.raises(UserError, match=r"Llama.*: no layer has experts"):
        with routing(tiny("llama"), keep(1)):
            pass
    with pytest.raises(UserError, match="layer 0 has no experts"):
        with routing(tiny("deepseek-v3"), keep(1), [1, 0]):
            pass
    for change, message in (
        (keep(0), "a token uses 2 experts: keep 1 to 2 of them, not 0"),
        (rank(0), "there are 8 experts: take a rank of 1 to 8, not 0"),
        (rank(9), "take a rank of 1 to 8, not 9"),
        (mask(range(7)), "experts 0 to 7 of which a token uses 2; 7 of them cannot be masked"),
        (mask([8]), r"1 of them cannot be masked: \[8\]"),
        (silence(torch.zeros(24, 3, dtype=torch.bool)), "uses 2 experts, slots of 3 are silenced"),
        (silence(torch.zeros(9, 2, dtype=torch.bool)), "for 9 positions, the pass has 24"),
        (force(torch.zeros(2, 11, 2, dtype=torch.long)), "for 22 positions, the pass has 24"),
    ):
        with pytest.raises(UserError, match=message), routing(model, change):
            logits(model)
    with pytest.raises(UserError, match="is given an expert that is masked"):
        with routing(model, mask([3])), routing(model, force(torch.full((2, 12, 1), 3))):
            logits(model)
    logits(model)


def test_a_family_that_is_not_in_the_table_is_changed_as_far_as_its_structure_goes() -> None:
    model = tiny("minimax-m2")
    used = table(routed(model))
    with routing(model, keep(1), [LAYER]):
        assert torch.equal(table(routed(model)), used.masked_fill(used < used.amax(1, True), 0.0))
    for change in (mask([1]), rank(1), force(routed(model).experts)):
        with pytest.raises(
            UserError, match=r"the rule by which .* is not known; add its family to"
        ):
            with routing(model, change):
                logits(model)
    model = tiny("jetmoe")
    with pytest.raises(UserError, match=r"JetMoe.* does not return gates of the experts"):
        with routing(model, keep(1)):
            logits(model)
