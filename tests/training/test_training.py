"""Training: losses as theory has them, learning, and exact resumption."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from conftest import DENSE, MOE, PLAN, PRESETS, SCHEMA, VOCABULARY
from moediff.config import kept
from moediff.config.complete import complete
from moediff.core import checkpoint
from moediff.core.errors import UserError
from moediff.corpus.token_shards import TokenSplit
from moediff.models import autocast, loading
from moediff.training import loop, objectives
from moediff.training.history import COLUMNS, final_losses
from moediff.training.loss_sums import evaluate
from moediff.training.optimizers import OPTIMIZERS
from moediff.training.plan import Plan, batch_order
from moediff.training.step import Step
from workflow import TINY

CPU = torch.device("cpu")


@pytest.fixture
def data(token_shard) -> TokenSplit:
    return TokenSplit([token_shard()])


def test_the_schedule_rises_to_the_peak_and_falls_to_its_share() -> None:
    rates = [PLAN.learning_rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == rates[9] == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-3)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_a_plan_has_betas_that_torch_takes_where_a_config_says_0() -> None:
    corpus = TINY["corpus"] | {"domains": {"made": {"source": "tales"}}}
    config = complete(TINY | {"corpus": corpus, "training": {"betas": [0, 0.999]}}, SCHEMA, PRESETS)
    plan = Plan.of(config["training"], 1e-3, 0)
    assert [type(beta) for beta in plan.betas] == [float, float]
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], betas=plan.betas)


def test_every_sequence_comes_once_an_epoch_in_an_order_of_its_seed() -> None:
    order = np.concatenate(list(batch_order(PLAN, 24)))
    assert sorted(order[:24]) == sorted(order[24:]) == list(range(24))
    other = np.concatenate(list(batch_order(replace(PLAN, data_seed=1), 24)))
    assert not np.array_equal(order, other)
    few = np.concatenate(list(batch_order(replace(PLAN, sequences=8), 24)))
    assert set(few) == set(range(8))


def test_losses_are_those_of_transformers(data, architecture, tiny_model) -> None:
    model = tiny_model(architecture).eval()
    data.starts = data.starts[:]
    data.starts[:, 1:] = False
    data.is_target = ~data.starts[:, 1:]
    rows = np.arange(4)
    found = objectives.token_losses(model, data, rows, CPU)
    ids = torch.from_numpy(data.tokens[rows].astype(np.int64))
    logits = model(ids).logits[:, :-1]
    wanted = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert float(found.mean()) == pytest.approx(float(wanted), rel=1e-5)


def test_a_first_token_is_no_target_and_domains_add_up(data, tiny_model) -> None:
    model = tiny_model(MOE)
    losses = objectives.token_losses(model, data, np.arange(24), CPU)
    assert (losses[torch.from_numpy(data.starts[:][:, 1:])] == 0).all()
    sums = evaluate(model, data, CPU, torch.float32, ["balance", "z"], batch=5)
    rows = {(row["domain"], row["name"]): row["value"] for row in sums.rows(0, "validation")}
    weights = sums.count / sums.count.sum()
    mean = sum(weights[i] * rows[name, "cross_entropy"] for i, name in enumerate(data.domains))
    assert rows["all", "cross_entropy"] == pytest.approx(mean)
    assert sums.count.sum() == data.is_target[:].sum()
    assert rows["all", "balance"] > 2 * 2 * 0.99  # two layers, k = 2
    assert rows["all", "z"] > 2 * np.log(4) ** 2 * 0.99  # logits of four experts, near 0
    dense = evaluate(tiny_model(DENSE), data, CPU, torch.float32, ["balance", "z"])
    assert {row["name"] for row in dense.rows(0, "validation")} == {"cross_entropy"}


def test_a_domain_that_is_not_learned_gives_no_loss_and_no_gradient(data, tiny_model) -> None:
    own = data.only([data.domains[0]])
    rows = np.arange(len(data))
    other = data.is_target[:] & (data.domain[:][:, 1:] != 0)
    assert other.any()
    assert own.is_target[:].any()
    assert np.array_equal(own.is_target[:], data.is_target[:] & ~other)
    model = tiny_model(DENSE)
    both, one = (objectives.token_losses(model, split, rows, CPU) for split in (data, own))
    assert (one[torch.from_numpy(~own.is_target[:])] == 0).all()
    kept = torch.from_numpy(own.is_target[:])
    assert torch.equal(one[kept], both[kept])  # what is seen is the same
    changed = data.only([data.domains[0]])  # other text in place of the domain left out
    changed.tokens = np.where(
        data.domain[:] == 0, data.tokens[:], (data.tokens[:] + 1) % VOCABULARY
    )
    gradients = []
    for split in (own, changed):
        model.zero_grad()
        objectives.token_losses(model, split, rows, CPU).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*gradients, atol=1e-5)
    assert own.digest != data.digest


def test_a_model_that_learns_from_nothing_stays_as_it_was(data, tiny_model, tmp_path: Path) -> None:
    model, same = tiny_model(DENSE), tiny_model(DENSE)
    history = loop.train(
        model, replace(PLAN, sequences=0), data, data, tmp_path, CPU
    )  # fmt: skip
    for own, other in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(own, other)
    assert history["step"].unique().to_list() == [0]
    uniform = np.log(VOCABULARY)
    assert final_losses(history)["all"] == pytest.approx(uniform, abs=0.5)


def test_micro_batches_take_the_same_step(data, tiny_model) -> None:
    found = []
    for micro in (None, 1):
        model = tiny_model(DENSE)
        Step(model, replace(PLAN, micro_batch=micro), CPU).take(data, np.arange(4), 1e-2)
        found.append(model.state_dict())
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_learns(optimizer: str, data, architecture, tiny_model, tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=10, optimizer=optimizer)
    history = loop.train(tiny_model(architecture), plan, data, data, tmp_path, CPU)
    assert history.columns == list(COLUMNS)
    first = history.filter(split="validation", domain="all", name="cross_entropy")["value"][0]
    last = final_losses(history)["all"]
    assert last < first - 0.3
    assert last < np.log(VOCABULARY) - 1


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_run_ends_with_the_same_bytes(
    optimizer: str, data, architecture, tiny_model, tmp_path: Path, monkeypatch
) -> None:
    plan, whole = replace(PLAN, optimizer=optimizer), tiny_model(architecture)
    history = loop.train(whole, plan, data, data, tmp_path / "whole", CPU)

    model, steps = tiny_model(architecture), 0
    plain = Step.take

    def kill(*arguments: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 8:  # two steps after a checkpoint
            raise Killed
        return plain(*arguments)

    monkeypatch.setattr(Step, "take", kill)
    with pytest.raises(Killed):
        loop.train(model, plan, data, data, tmp_path / "killed", CPU)
    newest = max((tmp_path / "killed").glob("step-*"))
    cut = newest.with_name("step-000000099.safetensors")
    cut.write_bytes(newest.read_bytes()[:1000])  # a later one that is not whole is passed over

    resumed = tiny_model(architecture, seed=5)  # nothing of the initial weights may remain
    steps = 100
    again = loop.train(resumed, plan, data, data, tmp_path / "killed", CPU)
    assert steps < 100 + 12
    assert again.equals(history)
    loading.save(whole, tmp_path / "a")
    loading.save(resumed, tmp_path / "b")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert one == two


def test_a_config_counts_the_steps_that_a_run_takes(data, tiny_model, tmp_path: Path) -> None:
    corpus = TINY["corpus"] | {"domains": {"made": {"source": "tales"}}}
    length = TINY["corpus"]["sequence"]["length"]
    tokens = TINY["corpus"]["tokens"] | {"train": 24 * length + 1}
    for change, steps in (({}, 6), ({"batch": 5, "epochs": 3}, 12), ({"batch": 7}, 3)):
        settings = TINY["training"] | {"batch": 4} | change
        config = complete(
            TINY | {"corpus": corpus | {"tokens": tokens}, "training": settings}, SCHEMA, PRESETS
        )
        plan = Plan.of(config["training"], 1e-3, 0)
        assert kept.step_count(config, "dense") == plan.steps(len(data)) == steps
        config["models"]["dense"]["sees"]["share"] = 0.34
        assert kept.step_count(config, "dense") == replace(plan, sequences=8).steps(len(data))


KEEP = [3, 7, 10]


def kept_bytes(model, state: Path, folder: Path) -> list[bytes]:
    """The weights that a run kept, as files of models."""
    found = []
    for step in KEEP:
        loop.take_kept(model, state, step)
        loading.save(model, folder / str(step))
        found.append((folder / str(step) / "model.safetensors").read_bytes())
    return found


def test_kept_weights_are_those_after_their_steps_and_change_no_others(
    data, architecture, tiny_model, tmp_path: Path, monkeypatch
) -> None:
    plain, keeping = tiny_model(architecture), tiny_model(architecture)
    seen, take = [], Step.take

    def watched(self, *arguments: object) -> object:
        found = take(self, *arguments)
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return found

    monkeypatch.setattr(Step, "take", watched)
    before = loop.train(plain, PLAN, data, data, tmp_path / "plain", CPU)
    history = loop.train(keeping, PLAN, data, data, tmp_path / "keeping", CPU, keep=KEEP)
    last = keeping.state_dict()
    assert all(torch.equal(value, last[name]) for name, value in plain.state_dict().items())
    for step in KEEP:
        model = tiny_model(architecture, seed=5)
        loop.take_kept(model, tmp_path / "keeping", step)
        wanted = seen[step - 1]
        assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
        measured = evaluate(model.eval(), data, CPU, torch.float32, ["balance"])
        row = history.filter(step=step, split="validation", domain="all", name="cross_entropy")
        assert row["value"].item() == measured.cross_entropies()["all"]
    # What is measured at other steps is as it was, but for the steps that a training loss is summed over.
    same = history.filter(~history["step"].is_in(KEEP), split="validation")
    assert same.equals(before.filter(~before["step"].is_in(KEEP), split="validation"))


@pytest.mark.parametrize("died", [2, 5, 8, 9, 11])
def test_a_run_killed_between_kept_steps_ends_with_the_same_bytes(
    died: int, data, tiny_model, tmp_path: Path, monkeypatch
) -> None:
    whole = tiny_model(MOE)
    history = loop.train(whole, PLAN, data, data, tmp_path / "whole", CPU, keep=KEEP)
    steps, take = 0, Step.take

    def kill(*arguments: object) -> object:
        nonlocal steps
        steps += 1
        if steps == died:
            raise Killed
        return take(*arguments)

    monkeypatch.setattr(Step, "take", kill)
    with pytest.raises(Killed):
        loop.train(tiny_model(MOE), PLAN, data, data, tmp_path / "killed", CPU, keep=KEEP)
    resumed, steps = tiny_model(MOE, seed=5), 100
    if died == 2:  # nothing was written: it begins as it began
        resumed = tiny_model(MOE)
    again = loop.train(resumed, PLAN, data, data, tmp_path / "killed", CPU, keep=KEEP)
    assert steps - 100 == 12 - max([0, *(mark for mark in (*KEEP, 6) if mark < died)])
    assert again.equals(history)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())
    one, two = (
        kept_bytes(tiny_model(MOE), tmp_path / name, tmp_path / f"{name}-kept")
        for name in ("whole", "killed")
    )
    assert one == two
    assert len(set(one)) == 3


def test_a_finished_run_that_has_not_kept_a_step_begins_anew(
    data, tiny_model, tmp_path: Path
) -> None:
    whole = tiny_model(DENSE)
    loop.train(whole, PLAN, data, data, tmp_path, CPU)
    again = tiny_model(DENSE)
    loop.train(again, PLAN, data, data, tmp_path, CPU, keep=KEEP)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    found = kept_bytes(tiny_model(DENSE), tmp_path, tmp_path / "kept")
    damaged = tmp_path / "kept-000000007.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    loop.train(tiny_model(DENSE), PLAN, data, data, tmp_path, CPU, keep=KEEP)
    assert kept_bytes(tiny_model(DENSE), tmp_path, tmp_path / "again") == found
    with pytest.raises(UserError, match="no step 12 on its way"):
        loop.train(tiny_model(DENSE), PLAN, data, data, tmp_path, CPU, keep=[12])


def test_a_router_loss_is_learned_from_by_its_weight_and_measured_at_weight_0(
    data, tiny_model, tmp_path: Path
) -> None:
    ends = {}
    for weight in (None, 0.0, 0.1):
        losses = PLAN.router_losses | ({} if weight is None else {"z": weight})
        plan = replace(PLAN, router_losses=losses)
        model = tiny_model(MOE)
        history = loop.train(model, plan, data, data, tmp_path / str(weight), CPU)
        ends[weight] = model.state_dict(), history.filter(split="validation", name="z")["value"]
    without, measured, learned = (ends[weight] for weight in ends)
    assert len(without[1]) == 0
    assert all(torch.equal(without[0][name], measured[0][name]) for name in without[0])
    assert learned[1][-1] < measured[1][-1] - 0.5


def test_a_loss_that_is_not_finite_and_a_batch_too_large_are_refused(
    data, tiny_model, tmp_path: Path
) -> None:
    model = tiny_model(DENSE)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="finite"):
        loop.train(model, PLAN, data, data, tmp_path, CPU)
    with pytest.raises(UserError, match="batch"):
        loop.train(tiny_model(DENSE), replace(PLAN, batch=25), data, data, tmp_path / "x", CPU)


def test_checkpoints_are_kept_two_at_a_time(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"a": torch.tensor([step])}, {"history": []})
    assert len(list(tmp_path.iterdir())) == 2
    tensors, metadata = checkpoint.newest(tmp_path)
    assert metadata["step"] == 3
    assert tensors["a"].item() == 3


def test_a_checkpoint_with_a_flipped_byte_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"a": torch.full((100,), float(step))}, {})
    newest = tmp_path / "step-000000002.safetensors"
    data = bytearray(newest.read_bytes())
    data[-40] ^= 1
    newest.write_bytes(data)
    assert checkpoint.newest(tmp_path)[1]["step"] == 1


def test_what_a_killed_save_left_behind_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".step-000000001.safetensors.123.partial").write_bytes(b"cut")
    checkpoint.save(tmp_path, 2, {"a": torch.zeros(1)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002.safetensors"]


def test_splits_that_differ_in_what_attention_sees_have_different_digests(token_shard) -> None:
    shard = token_shard()
    apart, across = TokenSplit([shard]), TokenSplit([shard], attend_across_documents=True)
    assert apart.digest != across.digest
    assert apart.digest == TokenSplit([shard]).digest
    parts = {apart.part(slice(0, end)).digest for end in (5, 6)} | {apart.digest}
    assert len(parts) == 3


def test_experts_follow_autocast_as_a_dense_feed_forward_does(tiny_model) -> None:
    """An MoE whose experts are all one dense feed-forward is that dense model, in bfloat16 too."""
    dense = tiny_model(DENSE | {"ffn": 32})
    moe = tiny_model(MOE | {"renormalise": True})
    weights = dense.state_dict()
    for name, parameter in moe.named_parameters():
        if ".experts.gate_up_proj" in name or ".experts.down_proj" in name:
            layer = name.partition(".experts.")[0]
            parts = ("gate_proj", "up_proj") if "gate_up" in name else ("down_proj",)
            one = torch.cat([weights[f"{layer}.{part}.weight"] for part in parts])
            parameter.data.copy_(one.expand_as(parameter))
        elif name in weights:
            parameter.data.copy_(weights[name])
    autocast.follow_autocast(moe)
    tokens = torch.arange(40).view(2, 20)
    with torch.no_grad():
        assert torch.allclose(dense(tokens).logits, moe(tokens).logits, atol=1e-5)
    seen = []
    kinds = moe.model.layers[0].mlp.experts.act_fn.register_forward_hook(
        lambda _, args, out: seen.append(out.dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = moe(tokens, labels=tokens).loss
        assert abs(loss - dense(tokens, labels=tokens).loss) < 2e-3
    kinds.remove()
    assert seen == [torch.bfloat16]
    loss.backward()
    gradient = moe.model.layers[0].mlp.experts.down_proj.grad
    assert gradient.dtype == torch.float32
    assert gradient.abs().sum() > 0
