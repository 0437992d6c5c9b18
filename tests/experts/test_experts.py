"""What experts wrote and what goes with them, computed a second way from the model's own parts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from conftest import dense_tables, unchanged
from families import tiny
from moediff.analysis.reruns import Rerun
from moediff.core.errors import UserError
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import read_token_shard
from moediff.dictionaries.dictionary import in_float64
from moediff.experts import masking
from moediff.experts.attribution import written
from moediff.experts.masking import masked_firing
from moediff.models.families import blocks
from moediff.models.inputs import packed_inputs
from routed import FIRST, fires, made_dictionary, passed_by, pre_activations, routed_rows

CPU = torch.device("cpu")


@pytest.fixture
def stored(tmp_path: Path, token_shard):
    return partial(routed_rows, tmp_path, token_shard)


# --- what each expert wrote ---------------------------------------------------------------------


def expert_output(experts: torch.nn.Module, number: int, rows: torch.Tensor) -> torch.Tensor:
    """What one expert gives for rows [row, d], from its weights."""
    gate, up = (rows @ experts.gate_up_proj[number].T).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ experts.down_proj[number].T


def fed(model, layer: int, inputs: dict) -> tuple[torch.Tensor, ...]:
    """Of a pass: what enters a feed-forward, its gates and experts, and what leaves it, by position."""
    seen = []
    feed_forward = blocks(model)[layer].mlp
    handles = [
        feed_forward.register_forward_hook(lambda _, given, out: seen.extend([given[0], out])),
        feed_forward.gate.register_forward_hook(lambda _, __, out: seen.extend(out[1:])),
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    gates, experts, entered, left = seen
    left = left[0] if isinstance(left, tuple) else left
    return entered.flatten(0, 1), gates, experts, left.flatten(0, 1)


@pytest.mark.parametrize(
    ("family", "beside", "normalise"),
    [("qwen3-moe", True, "none"), ("olmoe", False, "none"), ("mixtral", False, "none"),
     ("qwen2-moe", True, "none"), ("qwen2-moe", True, "rms"), ("qwen2-moe", True, "whiten")],
)  # fmt: skip
def test_shares_are_what_each_expert_computes_by_itself(
    stored, family: str, beside: bool, normalise: str
) -> None:
    model, shard, data = stored(("mlp_out", 1), family, beside)
    dictionary, source = made_dictionary(data, 30, normalise=normalise), int(beside)
    with unchanged(dictionary):
        table = written(dictionary, data, source, Rerun(model, shard, False, 24, 5), CPU)
    names = [f"expert_{number}" for number in range(8)]
    rest = ["shared", "others", "constant"]
    assert table.columns == ["feature", "fired", "pre_activation", *names, *rest]
    total = table.select(pl.sum_horizontal(*names, *rest)).to_series()
    assert table["fired"].min() > 10
    np.testing.assert_allclose(total, 1, atol=1e-9)
    # Again from the model's weights and the dictionary's dense tables.
    dictionary = in_float64(dictionary)
    starts = segment_starts(shard.document)
    entered, gates, experts, left = fed(model, 1, packed_inputs(model, shard.tokens, starts))
    place = (data.column("sequence") - FIRST) * 32 + data.column("position")
    entered, gates, experts, left = (part[place] for part in (entered, gates, experts, left))
    given = [torch.cat(part) for part in zip(*data.in_order(100), strict=True)]
    given[source] = left
    mask = fires(dictionary, given).double()
    columns, scale = dictionary.shape.columns(source), dictionary.scale[source]
    _, tables, bias = dense_tables(dictionary)
    encoder = tables[:, columns].double()
    pre = (pre_activations(dictionary, given) * mask).sum(0)  # [F]
    np.testing.assert_array_equal(table["fired"], mask.sum(0))
    np.testing.assert_allclose(table["pre_activation"], pre / mask.sum(0), rtol=1e-5)
    remaining, mean = left.clone().double(), dictionary.mean[columns]
    unit = torch.eye(left.shape[1]).double()  # what parts of a row are multiplied by
    if normalise == "rms":
        unit = (left.double().square().mean(1, keepdim=True)).rsqrt()
    if normalise == "whiten":
        unit = dictionary.normaliser.matrix(source)
        mean = mean @ unit

    def seen(part: torch.Tensor) -> torch.Tensor:
        return part * unit if normalise == "rms" else part @ unit

    for number in range(8):
        gate = (gates * (experts == number)).sum(1)
        part = (
            gate[:, None] * expert_output(blocks(model)[1].mlp.experts, number, entered)
        ).double()
        remaining -= part
        expected = ((seen(part) @ encoder.T / scale) * mask).sum(0) / pre
        np.testing.assert_allclose(table[f"expert_{number}"], expected, atol=1e-5)
        assert expected.abs().max() > 0.01
    shared = ((seen(remaining) @ encoder.T / scale) * mask).sum(0) / pre
    np.testing.assert_allclose(table["shared"], shared, atol=1e-4)
    assert (shared.abs().max() > 0.05) == (family == "qwen2-moe")
    fixed = bias.double() - encoder @ mean / scale
    np.testing.assert_allclose(table["constant"], mask.sum(0) * fixed / pre, atol=1e-4)
    assert (np.abs(table["others"].to_numpy()).max() > 0.05) == beside


def test_shares_do_not_depend_on_the_passes(stored) -> None:
    model, shard, data = stored(("mlp_out", 1))
    dictionary = made_dictionary(data, 12)
    one = written(dictionary, data, 0, Rerun(model, shard, False, 9, 9), CPU)
    two = written(dictionary, data, 0, Rerun(model, shard, False, 9, 2), CPU)
    assert one["fired"].sum() == int(
        fires(dictionary, [torch.cat([p for (p,) in data.in_order(99)])])[
            data.column("sequence") < FIRST + 9
        ].sum()
    )
    for name in one.columns:
        np.testing.assert_allclose(one[name], two[name], atol=1e-5)


def test_what_does_not_add_up_is_refused(stored) -> None:
    model, shard, data = stored(("mlp_out", 1))
    dictionary, again = made_dictionary(data, 10), Rerun(model, shard, False, 8, 8)
    plain = blocks(model)[1].mlp.forward
    blocks(model)[1].mlp.forward = lambda hidden: 0.8 * plain(hidden)
    with pytest.raises(UserError, match="does not give the rows that are stored"):
        written(dictionary, data, 0, again, CPU)
    blocks(model)[1].mlp.forward = plain
    experts = blocks(model)[1].mlp.experts
    apart = experts.forward

    def bent(hidden: torch.Tensor, chosen: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        found = apart(hidden, chosen, gates)
        return found if bool((gates > 0).all()) else 0.5 * found

    experts.forward = bent
    with pytest.raises(UserError, match="does not sum to what the layer gives"):
        written(dictionary, data, 0, again, CPU)


def test_another_model_hook_or_text_is_refused(stored, token_shard) -> None:
    model, shard, data = stored(("resid_post", 1), beside=True)
    dictionary, experts = made_dictionary(data, 10), np.zeros(10, int)
    again = Rerun(model, shard, False, 4, 4)
    with pytest.raises(UserError, match=r"resid_post.1: what experts write adds up at mlp_out"):
        written(dictionary, data, 1, again, CPU)
    other = Rerun(tiny("qwen3-moe", seed=1), shard, False, 4, 4)
    with pytest.raises(UserError, match="does not give the rows that are stored"):
        masked_firing(dictionary, data, 1, other, 1, experts, CPU)
    elsewhere = read_token_shard(token_shard("other.h5", seed=3))
    with pytest.raises(UserError, match="none of its shards was made from these tokens"):
        masked_firing(dictionary, data, 1, Rerun(model, elsewhere, False, 4, 4), 1, experts, CPU)
    with pytest.raises(UserError, match=r"layer 2 has no experts below resid_post.1"):
        masked_firing(dictionary, data, 1, again, 2, experts, CPU)
    with pytest.raises(UserError, match="experts of 9 features, where there are 10"):
        masked_firing(dictionary, data, 1, again, 1, experts[:9], CPU)


# --- masking ------------------------------------------------------------------------------------


def by_hand(model, layer: int, mask, inputs: dict) -> torch.Tensor:
    """The stream behind block 1 with gates replaced where `mask(experts)`: [position, d]."""
    experts = blocks(model)[layer].mlp.experts
    plain = experts.forward
    experts.forward = lambda hidden, chosen, gates: plain(
        hidden, chosen, torch.where(mask(chosen), 0.0, gates)
    )
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    experts.forward = plain
    return states[2].flatten(0, 1)


@pytest.mark.parametrize("layer", [0, 1])
def test_firings_lost_are_those_of_a_model_without_the_expert(stored, layer: int) -> None:
    """Each token uses two experts, so that the other one is known."""
    model, shard, data = stored(("resid_post", 1), beside=True)
    dictionary = made_dictionary(data, 24)
    wanted = np.arange(24) % 9 - 1  # of experts 0 to 7, or of none
    again = Rerun(model, shard, False, 6, 6)
    with unchanged(dictionary):
        table = masked_firing(dictionary, data, 1, again, layer, wanted, CPU)
    assert table["feature"].to_list() == np.flatnonzero(wanted >= 0).tolist()
    part = data.column("sequence") < FIRST + 6
    place = ((data.column("sequence") - FIRST) * 32 + data.column("position"))[part]
    given = [torch.cat(rows)[part] for rows in zip(*data.in_order(100), strict=True)]
    starts = segment_starts(shard.document)[:6]
    inputs = packed_inputs(model, shard.tokens[:6], starts)
    _, gates, experts, _ = (rows[place] for rows in fed(model, layer, inputs))

    def firing(mask) -> torch.Tensor:
        rows = by_hand(model, layer, mask, inputs)[place]
        return fires(dictionary, [given[0], rows])

    whole = firing(lambda chosen: chosen < 0)
    for number in range(8):
        one = firing(lambda chosen, e=number: chosen == e)
        other = firing(lambda chosen, e=number: (chosen != e) & (chosen == e).any(1, True))
        used = (experts == number).any(1)
        gate, rest = (
            (gates * ((experts == number) == own)).sum(1).double() for own in (True, False)
        )
        for row in table.filter(pl.col("expert") == number).iter_rows(named=True):
            on = whole[:, row["feature"]] & used
            assert row["fired"] == int(on.sum())
            if row["fired"]:
                for name, left in (("lost", one), ("lost_other", other)):
                    gone = float((~left[on, row["feature"]]).double().mean())
                    assert row[name] == pytest.approx(gone, abs=1e-12)
                assert row["gate"] == pytest.approx(float(gate[on].mean()), rel=1e-5)
                assert row["gate_other"] == pytest.approx(float(rest[on].mean()), rel=1e-5)
            else:
                assert row["lost"] is None
    assert table["fired"].sum() > 50
    assert 0 < table["lost"].mean() < 1
    assert 0 < table["lost_other"].mean() < 1


def one_direction_each(model: PreTrainedModel) -> None:
    """Let expert e of block 1 write along axis e alone, more where it writes at all."""
    down = blocks(model)[1].mlp.experts.down_proj  # [E, d, hidden]
    for number in range(8):
        along = down[number, 0].clone()
        down[number] = 0
        down[number, number] = 3 * along


def test_a_feature_of_one_experts_direction_is_written_by_it_and_goes_with_it(stored) -> None:
    """Planted: feature e reads axis e, which expert e alone writes, at either end."""
    model, shard, data = stored(("mlp_out", 1), change=one_direction_each)
    dictionary = made_dictionary(data, 16)
    free = dictionary.blocks["free"]
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(8)
    free.encoder.copy_(signs[:, None] * torch.eye(32)[:8].repeat(2, 1))
    free.encoder_bias.copy_(free.encoder @ dictionary.mean / dictionary.scale)  # pre is 0 at 0
    (rows,) = (torch.cat(part) for part in zip(*data.in_order(999), strict=True))
    scores, _ = dictionary.score(dictionary.standardise([rows]))
    dictionary.threshold.copy_(passed_by(scores.all, 0.03))
    again, planted = Rerun(model, shard, False, 24, 8), np.arange(16) % 8
    lost = masked_firing(dictionary, data, 0, again, 1, planted, CPU)
    wrote = written(dictionary, data, 0, again, CPU)
    seen = (lost["fired"] > 0).to_numpy()
    assert seen.sum() >= 14
    assert lost["fired"].to_list() == wrote["fired"].to_list()  # never without it
    assert (lost["lost"].to_numpy()[seen] == 1).all()
    assert (lost["lost_other"].to_numpy()[seen] == 0).all()
    shares = wrote.select([f"expert_{number}" for number in range(8)]).to_numpy()
    np.testing.assert_allclose(shares[seen], np.eye(8)[planted][seen], atol=1e-5)
    np.testing.assert_allclose(wrote["constant"].to_numpy()[seen], 0, atol=1e-6)


def test_the_other_expert_is_any_other_of_the_same_token() -> None:
    experts = torch.stack([torch.randperm(6)[:3] for _ in range(3000)])
    own = experts == 2
    other = masking._another(own, torch.Generator().manual_seed(0))
    assert not (other & own).any()
    assert torch.equal(other.sum(1), own.any(1).long())
    shares = torch.bincount(experts[other], minlength=6) / own.any(1).sum()
    np.testing.assert_allclose(shares[[0, 1, 3, 4, 5]], 0.2, atol=0.04)
    slots = other[own[:, 0]].sum(0) / own[:, 0].sum()
    np.testing.assert_allclose(slots, [0, 0.5, 0.5], atol=0.06)
    again = masking._another(own, torch.Generator().manual_seed(0))
    assert torch.equal(other, again)


def test_where_each_token_uses_one_expert_none_stands_in(stored) -> None:
    def one(model: PreTrainedModel) -> None:
        for block in blocks(model):
            block.mlp.gate.top_k = 1

    model, shard, data = stored(("resid_post", 1), change=one)
    dictionary = made_dictionary(data, 4)
    again = Rerun(model, shard, False, 4, 4)
    with pytest.raises(UserError, match="uses one expert only"):
        masked_firing(dictionary, data, 0, again, 1, np.zeros(4, int), CPU)
