"""Splicing: losses are those of the rest of the model run by itself; what must be recovered is."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from conftest import DENSE, MOE, unchanged
from moediff.analysis.sides import Side
from moediff.analysis.splicing import ALL, CLEAN, COLUMNS, FROZEN, LIVE, MEAN, SPLICED, ZERO
from moediff.corpus.alignment import PADDING
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard, TokenSplit, read_token_shard
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.normalising import NORMALISERS
from moediff.hooks.capture import Capture
from moediff.hooks.points import HOOKS, Point
from moediff.models import families
from moediff.models.families import blocks
from moediff.models.inputs import packed_inputs
from moediff.training.loss_sums import evaluate
from spliced import identity, loud, made, of, one_pass, plain_reconstruction, spliced, text, zeros


@pytest.fixture
def shard(token_shard) -> TokenShard:
    return read_token_shard(token_shard(sequences=10, length=24))


@pytest.mark.parametrize("across", [False, True])
def test_the_clean_loss_is_that_of_training(
    token_shard, tiny_model, architecture, across: bool
) -> None:
    path = token_shard(sequences=10, length=24)
    model, shard = loud(tiny_model(architecture)), read_token_shard(path)
    found = spliced(
        [Side("a", model, Point("resid_post", 0))], [text(shard, 1, across)], made([32], 4), across
    )
    split = TokenSplit([path], across)
    trained = evaluate(model, split, torch.device("cpu"), torch.float32, []).cross_entropies()
    assert len(trained) == 3
    for domain, loss in trained.items():
        mine = found.filter(kind=CLEAN, domain=domain, routing=LIVE)
        assert mine["cross_entropy"].item() == pytest.approx(loss, abs=1e-6)
    assert of(found, "tokens", kind=CLEAN) == split.is_target[:].sum()
    assert of(found, "recovered_zero", kind=CLEAN) == of(found, "recovered_mean", kind=CLEAN) == 1
    assert of(found, "recovered_zero", kind=ZERO) == of(found, "recovered_mean", kind=MEAN) == 0


def test_padding_is_not_predicted(shard, tiny_model) -> None:
    padded = {
        name: np.pad(array, [(0, 0), (0, 5)], constant_values=fill)
        for name, array, fill in (
            ("tokens", shard.tokens, 0),
            ("document", shard.document, PADDING),
            ("group", shard.group, PADDING),
            ("domain", shard.domain, 0),
            ("start", shard.start, 0),
            ("end", shard.end, 0),
            ("word_end", shard.word_end, False),
        )
    }
    longer = replace(shard, **padded)
    assert np.array_equal(one_pass(longer).target[:, :-5], one_pass(shard).target)
    assert not one_pass(longer).target[:, -5:].any()
    assert not one_pass(longer, across=True).target[:, -5:].any()
    sides = [Side("a", loud(tiny_model(DENSE)), Point("resid_post", 0))]
    one = spliced(sides, [text(shard, 1)], identity([32]))
    two = spliced(sides, [text(longer, 1)], identity([32]))
    assert one["tokens"].equals(two["tokens"])
    np.testing.assert_allclose(one["cross_entropy"], two["cross_entropy"], atol=1e-6)


@pytest.mark.parametrize("routing", [LIVE, FROZEN])
def test_losses_are_those_of_the_rest_of_the_model_run_by_itself(
    shard, tiny_model, routing: str
) -> None:
    """Two sources; each model's last block, as a model of its own, on what the dictionary gives."""
    pair = [loud(tiny_model(MOE | {"layers": 3}, seed)) for seed in (0, 1)]
    sides = [Side(f"m{i}", model, Point("resid_post", 0)) for i, model in enumerate(pair)]
    dictionary = made([32, 32], 24, seed=3)
    dictionary.threshold.fill_(0.05)
    dictionary.decoder_bias.normal_(generator=torch.Generator().manual_seed(5))
    gone = np.arange(24) % 3 == 0
    with unchanged(dictionary):
        found = spliced(sides, [text(shard, 2)], dictionary, deleted={"some": gone})

    mask = torch.from_numpy(text(shard, 1)[0][1])
    starts = segment_starts(shard.document)
    inputs = [packed_inputs(model, shard.tokens, starts) for model in pair]
    clean = []
    for model, given in zip(pair, inputs, strict=True):
        with torch.no_grad():
            clean.append(families.backbone(model)(**given, output_hidden_states=True).hidden_states)
    rows = [states[1][mask] for states in clean]
    mean = dictionary.mean.double().expand(len(rows[0]), -1)
    kinds = {
        CLEAN: torch.cat(rows, dim=1),
        ZERO: torch.zeros_like(mean),
        MEAN: mean,
        SPLICED: plain_reconstruction(dictionary, rows),
        "without some": plain_reconstruction(dictionary, rows, gone),
    }
    assert not torch.allclose(kinds[SPLICED], kinds["without some"], atol=0.1)
    assert set(found["kind"]) == set(kinds)
    for s, model in enumerate(pair):
        rest = copy.deepcopy(model)
        if routing == FROZEN:
            for number, block in enumerate(rest.model.layers[1:], 1):
                entering = blocks(model)[number]
                with torch.no_grad():  # what the clean pass gives the router of this block
                    with Capture(model, [Point("resid_mid", number)]) as capture:
                        middle = capture(**inputs[s]).points[Point("resid_mid", number)]
                    normed = entering.post_attention_layernorm(middle).flatten(0, 1)
                    kept = entering.mlp.gate(normed)
                block.mlp.gate.forward = lambda _, kept=kept: kept
        rest.model.layers = rest.model.layers[1:]
        rest.config.num_hidden_layers = 2
        for kind, values in kinds.items():
            stream = clean[s][1].clone()
            stream[mask] = values[:, 32 * s : 32 * s + 32].float()
            with torch.no_grad():
                given = rest(inputs_embeds=stream, position_ids=inputs[s]["position_ids"]).logits
            sums = {}
            for row, position in zip(*np.nonzero(~starts[:, 1:]), strict=True):
                token, domain = shard.tokens[row, position + 1], shard.domain[row, position + 1]
                loss = -F.log_softmax(given[row, position].double(), -1)[int(token)]
                for name in (ALL, shard.domains[domain]):
                    sums.setdefault(name, []).append(float(loss))
            for name, each in sums.items():
                about = {"source": f"m{s}", "domain": name, "kind": kind, "routing": routing}
                assert of(found, **about) == pytest.approx(np.mean(each), abs=2e-5)
                assert of(found, "tokens", **about) == len(each)
    for row in found.iter_rows(named=True):
        about = {key: row[key] for key in ("source", "domain", "routing")}
        zero, base = (of(found, **about, kind=kind) for kind in (ZERO, CLEAN))
        wanted = (zero - row["cross_entropy"]) / (zero - base)
        assert row["recovered_zero"] == pytest.approx(wanted, abs=1e-12)
        mean_loss = of(found, **about, kind=MEAN)
        wanted = (mean_loss - row["cross_entropy"]) / (mean_loss - base)
        assert row["recovered_mean"] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_perfect_dictionary_recovers_all_and_ablating_ones_nothing(
    shard, tiny_model, hook: str
) -> None:
    pair = [loud(tiny_model(settings, 4)) for settings in (DENSE, MOE)]
    sides = [
        Side(name, model, Point(hook, 1))
        for name, model in zip(("dense", "moe"), pair, strict=True)
    ]
    every = {"all": np.ones(128, bool), "none": np.zeros(128, bool)}
    perfect = spliced(sides, [text(shard, 2)], identity([32, 32]), deleted=every)
    nothing = spliced(sides, [text(shard, 2)], zeros([32, 32]))
    average = spliced(sides, [text(shard, 2)], made([32, 32], 4))
    assert perfect.schema == pl.Schema(COLUMNS)
    behind = {("moe", FROZEN)} if hook in ("resid_pre", "attn_out", "resid_mid") else set()
    routings = {("dense", LIVE), ("moe", LIVE), *behind}
    assert set(perfect.select("source", "routing").unique().iter_rows()) == routings
    for about in perfect.select("source", "domain", "routing").unique().iter_rows(named=True):
        clean, zero, mean = (of(perfect, **about, kind=kind) for kind in (CLEAN, ZERO, MEAN))
        assert min(abs(zero - clean), abs(mean - clean), abs(zero - mean)) > 1e-3
        assert abs(of(perfect, **about, kind=SPLICED) - clean) <= 1e-6
        for column in ("recovered_zero", "recovered_mean"):
            assert of(perfect, column, **about, kind=SPLICED) == pytest.approx(1, abs=1e-3)
        assert of(nothing, **about, kind=SPLICED) == zero
        assert of(nothing, "recovered_zero", **about, kind=SPLICED) == 0
        assert of(average, **about, kind=SPLICED) == mean
        assert of(average, "recovered_mean", **about, kind=SPLICED) == 0
        assert of(perfect, **about, kind="without all") == mean
        assert of(perfect, **about, kind="without none") == of(perfect, **about, kind=SPLICED)


def normalised(dictionary: Dictionary, name: str) -> Dictionary:
    """The dictionary behind a normaliser of random matrices; rows have another mean than shown ones."""
    normaliser = NORMALISERS[name](dictionary.shape.widths)
    random = torch.Generator().manual_seed(9)
    for tensor in normaliser.buffers():
        tensor.copy_(torch.randn(tensor.shape, generator=random))
        if tensor.dim() == 2:  # symmetric and positive, as a whitening is
            tensor.copy_(tensor @ tensor.T / len(tensor) + 0.2 * torch.eye(len(tensor)))
    dictionary.normaliser = normaliser
    return dictionary


@pytest.mark.parametrize("name", ["rms", "whiten"])
def test_what_goes_back_into_a_model_is_inverted_exactly(shard, tiny_model, name: str) -> None:
    pair = [loud(tiny_model(settings, 4)) for settings in (DENSE, MOE)]
    sides = [Side(f"m{i}", model, Point("resid_post", 1)) for i, model in enumerate(pair)]
    dictionary = normalised(identity([32, 32]), name)
    every = {"all": np.ones(128, bool)}
    perfect = spliced(sides, [text(shard, 2)], dictionary, deleted=every)
    plain = made([32, 32], 4)  # whose mean is that of its rows
    plain.mean.copy_(torch.cat(dictionary.mean_rows()))
    average = spliced(sides, [text(shard, 2)], plain)
    for source in ("m0", "m1"):
        clean = of(perfect, source=source, kind=CLEAN)
        mean = of(perfect, source=source, kind=MEAN)
        assert abs(of(perfect, source=source, kind=SPLICED) - clean) <= 1e-5
        assert mean == of(average, source=source, kind=MEAN)
        assert abs(mean - clean) > 1e-3
        # Of nothing but the mean of what is shown: the mean row itself, or of each row's own size.
        gone = of(perfect, source=source, kind="without all")
        assert (gone == pytest.approx(mean, abs=1e-9)) == (name == "whiten")
