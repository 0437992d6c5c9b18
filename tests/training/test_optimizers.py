"""Optimizers: which parameter goes to which, their steps against torch's own, and their checkpoints."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.qwen3_moe import Qwen3MoeForCausalLM

from configured import completed
from conftest import DENSE, MOE, PLAN
from moediff.config.training import training_params
from moediff.core import checkpoint
from moediff.core.errors import UserError
from moediff.corpus.token_shards import TokenSplit
from moediff.training import loop, muon
from moediff.training.optimizers import OPTIMIZERS, hidden_matrices
from moediff.training.plan import Plan
from moediff.training.step import Step

CPU = torch.device("cpu")
MUON = replace(PLAN, optimizer="muon")
ATTENTION = [f"self_attn.{part}_proj.weight" for part in "qkvo"]
FEED_FORWARD = {
    "dense": [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")],
    "moe": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
}
NORMS = [
    "self_attn.q_norm.weight", "self_attn.k_norm.weight", "input_layernorm.weight",
    "post_attention_layernorm.weight",
]  # fmt: skip
OUTSIDE = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]


@pytest.fixture
def data(token_shard) -> TokenSplit:
    return TokenSplit([token_shard()])


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters that an optimizer holds, as often as it does."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def in_blocks(*names: str) -> set[str]:
    return {f"model.layers.{layer}.{name}" for layer in range(2) for name in names}


# --- which parameter goes to which ---


@pytest.mark.parametrize("kind", FEED_FORWARD)
def test_muon_takes_the_matrices_of_blocks_and_adamw_all_else(kind: str, tiny_model) -> None:
    model = tiny_model({"dense": DENSE, "moe": MOE}[kind])
    of_muon, of_adamw = (held(model, optimizer) for optimizer in OPTIMIZERS["muon"](model, MUON))
    routers = ["mlp.gate.weight"] if kind == "moe" else []
    assert set(of_muon) == in_blocks(*ATTENTION, *FEED_FORWARD[kind])
    assert set(of_adamw) == {*OUTSIDE, *in_blocks(*NORMS, *routers)}
    once = Counter(of_muon + of_adamw)
    assert once == Counter(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("part", ["all", "router"])
def test_an_optimizer_holds_each_parameter_that_learns_once(name, part, tiny_model) -> None:
    model = tiny_model(MOE)
    step = Step(model, replace(PLAN, optimizer=name, trainable=part), CPU)
    once = Counter(name for optimizer in step.optimizers for name in held(model, optimizer))
    assert once == Counter(n for n, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_embeddings_that_are_tied_are_held_once_and_by_adamw(name: str, tiny_model) -> None:
    config = tiny_model(DENSE).config
    config.tie_word_embeddings = True
    model = Qwen3MoeForCausalLM(config)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    optimizers = OPTIMIZERS[name](model, replace(PLAN, optimizer=name))
    once = [held(model, optimizer).count("model.embed_tokens.weight") for optimizer in optimizers]
    assert once == [0] * (len(optimizers) - 1) + [1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_decay_in_matrices_alone(name: str, architecture, tiny_model) -> None:
    model = tiny_model(architecture)
    for optimizer in OPTIMIZERS[name](model, replace(PLAN, optimizer=name)):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                wanted = PLAN.weight_decay if parameter.ndim >= 2 else 0.0
                assert group["weight_decay"] == wanted


def test_adamw_holds_what_it_held_before_there_was_a_choice(architecture, tiny_model) -> None:
    model = tiny_model(architecture)
    (optimizer,) = OPTIMIZERS["adamw"](model, PLAN)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["betas"] == PLAN.betas
    assert optimizer.defaults["fused"]
    groups = [group["params"] for group in optimizer.param_groups]
    for axes, group in zip((range(2, 4), range(2)), groups, strict=True):
        wanted = [p for p in model.parameters() if p.ndim in axes]
        assert [id(p) for p in group] == [id(p) for p in wanted]


def test_results_of_adamw_tell_the_plan_that_they_told_before_there_was_a_choice() -> None:
    assert "optimizer" not in PLAN.facts()
    assert MUON.facts() == PLAN.facts() | {"optimizer": "muon"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_model_is_trained_by_the_optimizer_that_the_config_names(name: str, tiny_model) -> None:
    config = completed(f"models: {{moe: {{training: {{optimizer: {name}}}}}}}")
    for model, wanted in (("moe", name), ("dense", "adamw")):
        plan = Plan.of(training_params(config, model), 1e-2, 0)
        optimizers = Step(tiny_model(MOE), plan, CPU).optimizers
        made = {"adamw": ["AdamW"], "muon": ["Muon", "AdamW"]}[wanted]
        assert [type(optimizer).__name__ for optimizer in optimizers] == made


# --- the step ---


def _torchs_steps(first: torch.Tensor, gradients: list[torch.Tensor], rate: float) -> torch.Tensor:
    """A matrix after torch.optim.Muon's steps along gradients."""
    parameter = nn.Parameter(first.clone())
    optimizer = torch.optim.Muon(
        [parameter], lr=rate, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"
    )
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


SHAPES = {  # of a parameter, and matrices under one another in it
    "wide matrix": ((12, 40), 1),
    "tall matrix": ((40, 12), 1),
    "square matrix": ((16, 16), 1),
    "two matrices": ((24, 16), 2),
    "experts": ((4, 12, 40), 1),
    "experts of two matrices": ((4, 40, 12), 2),
}


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("case", SHAPES)
def test_a_step_of_muon_is_torchs_of_each_matrix_alone(
    case: str, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 too: torch's rounds to bfloat16 by one call, which is made to round to float32."""
    if not bfloat16:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    monkeypatch.setattr(muon, "has_bfloat16", lambda device: bfloat16)
    shape, fused = SHAPES[case]
    random = torch.Generator().manual_seed(0)
    first = torch.randn(shape, generator=random)
    gradients = [torch.randn(shape, generator=random) for _ in range(3)]
    other = nn.Parameter(first.clone())  # of the same shape: a batch with the first
    stepped = nn.Parameter(first.clone())
    optimizer = muon.Muon([{"params": [stepped, other], "fused": fused}], 0.05, 0.3)
    for gradient in gradients:
        stepped.grad, other.grad = gradient.clone(), -gradient
        optimizer.step()
    matrices = (-1, shape[-2] // fused, shape[-1])
    found = stepped.detach().reshape(matrices)
    every = [gradient.reshape(matrices) for gradient in gradients]
    for number, alone in enumerate(first.reshape(matrices)):
        wanted = _torchs_steps(alone, [gradient[number] for gradient in every], 0.05)
        moved = (wanted - alone).abs().max()
        assert moved > 0.05
        error = (found[number] - wanted).abs().max() / moved
        assert error < (0.02 if bfloat16 else 1e-5)
    assert not torch.equal(other, stepped)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_singular_values_become_about_1_and_singular_vectors_stay(
    shape: tuple[int, int], bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "has_bfloat16", lambda device: bfloat16)
    matrices = 1e3 * torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    matrices[2] *= 1e-6  # each by itself
    found = muon.orthogonalised(matrices).float()
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ found @ right.mT  # diagonal where the vectors are the same
    kept = values > 0.05 * values[:, :1]  # smaller ones are not yet there after five iterations
    assert kept.float().mean() > 0.9
    diagonal = inside.diagonal(dim1=-2, dim2=-1)
    assert ((diagonal > 0.6) & (diagonal < 1.25))[kept].all()
    off = inside - torch.diag_embed(diagonal)
    assert off.abs().max() < (0.05 if bfloat16 else 1e-3)


def test_muon_leaves_an_expert_without_gradient_but_for_its_decay() -> None:
    experts = nn.Parameter(torch.ones(2, 4, 6))
    optimizer = muon.Muon([{"params": [experts]}], 0.1, 0.5)
    experts.grad = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    experts.grad[1] = 0
    optimizer.step()
    assert torch.equal(experts[1], torch.full((4, 6), 1 - 0.1 * 0.5))
    assert experts.isfinite().all()
    assert (experts[0] - experts[1]).abs().min() > 0


def test_gate_and_up_move_in_fused_experts_as_they_do_apart(tiny_model) -> None:
    """The MoE has in one tensor what the dense model has in two: of equal gradients, an equal step."""
    dense, moe = tiny_model(DENSE | {"ffn": 32}), tiny_model(MOE)
    mlp, experts = dense.model.layers[0].mlp, moe.model.layers[0].mlp.experts
    random = torch.Generator().manual_seed(0)
    for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        part.weight.grad = torch.randn(part.weight.shape, generator=random)
    together = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).detach()
    gradient = torch.cat([mlp.gate_proj.weight.grad, mlp.up_proj.weight.grad])
    experts.gate_up_proj.data.copy_(together.expand_as(experts.gate_up_proj))
    experts.gate_up_proj.grad = gradient.expand_as(experts.gate_up_proj).clone()
    experts.down_proj.data.copy_(mlp.down_proj.weight.expand_as(experts.down_proj))
    experts.down_proj.grad = mlp.down_proj.weight.grad.expand_as(experts.down_proj).clone()
    for model in (dense, moe):
        OPTIMIZERS["muon"](model, MUON)[0].step()
    assert not torch.allclose(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), together)
    for expert in range(4):
        apart = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        torch.testing.assert_close(experts.gate_up_proj[expert], apart, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            experts.down_proj[expert], mlp.down_proj.weight, atol=1e-5, rtol=1e-4
        )


def test_steps_of_muon_are_the_same_bytes_every_time(data, architecture, tiny_model) -> None:
    ends = []
    for _ in range(2):
        model = tiny_model(architecture)
        step = Step(model, MUON, CPU)
        for start in range(3):
            step.take(data, np.arange(start, start + 4), 1e-2)
        ends.append(model.state_dict())
    for name in ends[0]:
        assert torch.equal(ends[0][name], ends[1][name]), name


# --- checkpoints ---


def test_a_checkpoint_of_muon_holds_the_momentum_of_matrices_and_the_moments_of_the_rest(
    data, architecture, tiny_model, tmp_path: Path
) -> None:
    model = tiny_model(architecture)
    loop.train(model, MUON, data, data, tmp_path, CPU)
    tensors, facts = checkpoint.newest(tmp_path)
    assert facts["optimizer"] == "muon"
    matrices, wanted = hidden_matrices(model), set()
    for name, _ in model.named_parameters():
        kept = ["momentum_buffer"] if name in matrices else ["step", "exp_avg", "exp_avg_sq"]
        wanted |= {f"optimizer/{name}/{key}" for key in kept}
    assert {name for name in tensors if name.startswith("optimizer/")} == wanted
    for name in matrices:
        assert tensors[f"optimizer/{name}/momentum_buffer"].abs().sum() > 0


@pytest.mark.parametrize(("made", "wanted"), [("adamw", "muon"), ("muon", "adamw")])
def test_a_checkpoint_of_another_optimizer_is_refused_in_one_line(
    made: str, wanted: str, data, tiny_model, tmp_path: Path
) -> None:
    loop.train(tiny_model(MOE), replace(PLAN, optimizer=made), data, data, tmp_path, CPU)
    plan = replace(PLAN, optimizer=wanted)
    with pytest.raises(UserError, match=f"of the optimizer {made}, this run's is {wanted}") as told:
        loop.train(tiny_model(MOE), plan, data, data, tmp_path, CPU)
    assert str(tmp_path) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_checkpoint_that_names_no_optimizer_is_of_adamw(data, tiny_model, tmp_path) -> None:
    whole = tiny_model(MOE)
    history = loop.train(whole, PLAN, data, data, tmp_path, CPU)
    tensors, facts = checkpoint.newest(tmp_path)
    del facts["optimizer"]
    checkpoint.save(tmp_path, facts.pop("step"), tensors, facts)
    again = tiny_model(MOE, seed=5)
    assert loop.train(again, PLAN, data, data, tmp_path, CPU).equals(history)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with pytest.raises(UserError, match="of the optimizer adamw"):
        loop.train(tiny_model(MOE), MUON, data, data, tmp_path, CPU)
