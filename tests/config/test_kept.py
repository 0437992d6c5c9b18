"""Weights kept on the way: after which steps, what comparisons make of them, what cannot be had."""

from __future__ import annotations

import json

import pytest

from configured import completed, refused
from moediff.config import comparisons, kept, roles, training
from moediff.config.kinds import KEPT, TRAINED, has_experts, kind, models_of, run_of
from moediff.config.models import model_width, seeds
from moediff.config.resources import model_mb

STEPS = 439  # of the shipped config's models


def keeping(keep: str, more: str = "") -> dict:
    return completed(f"{{training: {{keep: {keep}, seeds: [0, 1]}}, {more}}}")


@pytest.mark.parametrize(
    ("keep", "steps"),
    [
        ("{}", []),
        ("{evenly: 4}", [110, 220, 329]),
        ("{log: 5}", [3, 11, 39, 130]),
        ("{log: 50}", None),
        ("{steps: [7, 0.5, 3]}", [3, 7, 220]),
        ("{evenly: 2, log: 2, steps: [220]}", [21, 220]),
    ],
)
def test_steps_that_are_kept(keep: str, steps: list[int] | None) -> None:
    found = kept.kept_steps(keeping(keep), "moe")
    assert found == sorted(set(found))
    assert all(0 < step < STEPS for step in found)
    if steps is not None:
        assert found == steps


def test_a_model_keeps_by_its_own_key_and_an_untrained_one_nothing() -> None:
    more = "models: {moe: {training: {keep: {steps: [5]}}}, dense: {sees: {share: 0}}}"
    config = completed(f"{{training: {{keep: {{evenly: 4}}}}, {more}}}")
    assert kept.kept_steps(config, "moe") == [5]
    assert kept.kept_steps(config, "dense") == []


def test_what_is_kept_decides_no_weights() -> None:
    """Snakemake compares the text of parameters: of models without the key it is as it was."""
    before, config = completed(), completed("training: {keep: {evenly: 4}}")
    for model in ("dense", "moe"):
        for params in (training.trial_params, training.training_params):
            assert repr(params(config, model)) == repr(params(before, model))


def test_a_model_at_a_step_is_a_kind_of_its_own_and_has_what_its_run_has() -> None:
    config = keeping(
        "{steps: [50, 0.5]}",
        "comparisons: {panel: {all: [moe, 'moe:step-50']}, both: {all: ['dense:step-220', moe]}}",
    )
    assert list(config["models"]) == ["dense", "moe", "moe-step-50", "dense-step-220"]
    assert kind(config, "moe-step-50") is KEPT
    assert models_of(config, TRAINED) == ["dense", "moe"]
    assert run_of(config, "moe-step-50") == run_of(config, "moe") == "moe"
    assert has_experts(config, "moe-step-50")
    assert has_experts(config, "dense-step-220") is False
    for what in (model_width, model_mb, seeds):
        assert what(config, "moe-step-50") == what(config, "moe")
    json.dumps(config)
    (panel,) = comparisons.members(config, "panel")
    assert panel.name == "moe.0_moe.1_moe-step-50.0_moe-step-50.1"
    assert comparisons.is_panel(config, panel)
    assert list(comparisons.kinds(panel)) == ["moe", "moe-step-50"]
    (both,) = comparisons.members(config, "both")
    assert list(comparisons.kinds(both)) == ["dense-step-220", "moe"]
    assert roles.whole_learners(config) == ["dense", "moe"]


def test_two_steps_of_one_run_are_of_one_seed_and_share_its_basis() -> None:
    config = keeping(
        "{steps: [50, 60]}",
        "comparisons: {x: {each: ['moe:step-50', 'moe:step-60']}, y: {each: [moe, 'dense:step-50']}}",
    )
    assert [member.name for member in comparisons.members(config, "x")] == [
        "moe-step-50.0_moe-step-60.0", "moe-step-50.1_moe-step-60.1",
    ]  # fmt: skip
    assert len(comparisons.members(config, "y")) == 4
    same, other = (
        next(fit for fit in comparisons.fits(config) if fit.member.comparison == name)
        for name in ("x", "y")
    )
    assert roles.share_a_basis(config, same)
    assert not roles.share_a_basis(config, other)
    assert not roles.why_no_divergence(config, same.member)


def test_a_step_goes_with_a_hook_point() -> None:
    config = keeping(
        "{steps: [50]}",
        "activations: {layer: [0.5, 1.0]}, comparisons: {x: {each: ['moe@resid_post.0.5:step-50']}}",
    )
    assert [member.name for member in comparisons.members(config, "x")] == [
        "moe-step-50.0@resid_post.0.5", "moe-step-50.1@resid_post.0.5",
    ]  # fmt: skip


def naming(side: str, keep: str = "{steps: [50, 60]}") -> str:
    return f"{{training: {{keep: {keep}}}, comparisons: {{x: {{each: ['{side}']}}}}}}"


BAD = {
    "not kept": (naming("moe:step-51"), ["comparisons.x", "moe:step-51", "50, 60", "439"]),
    "nothing kept": (naming("moe:step-51", "{}"), ["kept are none", "training.keep"]),
    "the end": (naming("moe:step-439"), ["end of its training", "'moe' alone"]),
    "beyond the end": (
        naming("moe:step-50", "{steps: [439]}"),
        ["keep.steps", "439 steps", "models.dense.training.keep"],
    ),
    "no such model": (naming("mo:step-50"), ["comparisons.x", "mo:step-50", "dense, moe"]),
    "misspelt": (naming("moe:500"), ["moe:500", "model:step-500"]),
    "no step": (
        "{training: {keep: {evenly: 4}}, models: {moe: {sees: {share: 0}}}, "
        "comparisons: {x: {each: ['moe:step-50']}}}",
        ["comparisons.x", "'moe' takes no step"],
    ),
    "a taken name": (
        "{training: {keep: {steps: [50]}}, models: {moe-step-50: {like: moe}}}",
        ["moe-step-50", "use another name"],
    ),
    "unknown point": (naming("moe@mlp_out.0.5:step-50"), ["comparisons.x", "mlp_out.0.5"]),
    "one part": ("training: {keep: {evenly: 1}}", ["training.keep.evenly"]),
    "list": ("training: {keep: [50]}", ["training.keep"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_had_is_refused_in_one_line(case: str) -> None:
    refused(*BAD[case])
