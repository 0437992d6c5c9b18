"""Splicing: losses are those of the rest of the model run by itself; what must be recovered is."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from conftest import DENSE, DROP, MOE, unchanged
from families import tiny
from moediff.activations.kept_rows import kept_rows
from moediff.analysis.reruns import Text
from moediff.analysis.sides import Side
from moediff.analysis.splicing import ALL, CLEAN, COLUMNS, FROZEN, LIVE, MEAN, SPLICED, ZERO, splice
from moediff.core import artifact
from moediff.core.bootstrap import group_bootstrap
from moediff.core.errors import UserError
from moediff.corpus.alignment import PADDING
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard, TokenSplit, read_token_shard, write_token_shard
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.normalising import NORMALISERS
from moediff.hooks.capture import Capture
from moediff.hooks.interventions import intervene
from moediff.hooks.interventions import replace as replaced
from moediff.hooks.points import HOOKS, Point
from moediff.models import families, loading
from moediff.models.families import blocks
from moediff.models.inputs import packed_inputs
from moediff.training.loss_sums import evaluate
from snake import run_script
from spliced import identity, made, of, one_pass, plain_reconstruction, text, zeros


def loud(model):
    """Larger weights, so that what is replaced matters."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval().requires_grad_(False)


@pytest.fixture
def shard(token_shard) -> TokenShard:
    return read_token_shard(token_shard(sequences=10, length=24))


def spliced(sides, texts, dictionary, across=False, sequences=10, batch=4, **more) -> pl.DataFrame:
    return splice(sides, texts, dictionary, across, sequences, batch, **more).table


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
    assert of(found, "tokens", kind=CLEAN) == split.is_target.sum()
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


def other_tokenizer(shard: TokenShard) -> TokenShard:
    """The same text, each of its tokens of three characters cut in two; and padding at the end."""

    def doubled(one: np.ndarray, two: np.ndarray, fill: int) -> np.ndarray:
        both = np.stack([one, two], axis=2).reshape(len(one), -1)
        return np.pad(both, [(0, 0), (0, 3)], constant_values=fill)

    cut = np.minimum(shard.start + 1, shard.end)
    return replace(
        shard,
        tokens=doubled((shard.tokens + 7) % 50 + 1, shard.tokens, 0),
        document=doubled(shard.document, shard.document, PADDING),
        group=doubled(shard.group, shard.group, PADDING),
        domain=doubled(shard.domain, shard.domain, 0),
        start=doubled(shard.start, cut, 0),
        end=doubled(cut, shard.end, 0),
        word_end=doubled(shard.word_end & False, shard.word_end, 0),
        tokenizer="other",
    )


def test_the_loss_added_has_an_interval_over_groups_of_documents(token_shard, tiny_model) -> None:
    shard = read_token_shard(token_shard(sequences=40, length=24))
    model = loud(tiny_model(MOE, 4))
    sides, name = [Side("moe", model, Point("resid_post", 0))], {"domain": ALL, "routing": LIVE}
    perfect = spliced(sides, [text(shard, 1)], identity([32]), sequences=40)
    average = spliced(sides, [text(shard, 1)], made([32], 4), sequences=40)
    assert abs(of(perfect, "added_low", **name, kind=SPLICED)) <= 1e-6
    assert abs(of(perfect, "added_high", **name, kind=SPLICED)) <= 1e-6
    more = of(average, "added", **name, kind=SPLICED)
    rise = of(average, **name, kind=MEAN) - of(average, **name, kind=CLEAN)
    assert more == pytest.approx(rise, abs=1e-12)
    low, high = (of(average, f"added_{end}", **name, kind=SPLICED) for end in ("low", "high"))
    # Against the same by hand: the loss of every target with the row's mean in its place.
    run, ((_, mask),) = one_pass(shard, model), text(shard, 1)
    clean, mean = run.losses(), replaced(made([32], 4).mean)
    with intervene(model, Point("resid_post", 0), mean, torch.from_numpy(mask)):
        ablated = run.losses()
    wanted = group_bootstrap(ablated - clean, np.ones(len(clean)), run.units)
    assert wanted["text_groups"] == of(average, "text_groups", **name, kind=SPLICED)
    assert wanted["text_groups"] < len(np.unique(shard.document))
    assert more == pytest.approx(wanted["estimate"], abs=1e-6)
    assert [low, high] == pytest.approx(wanted["interval"], abs=1e-5)
    assert low < more < high
    assert average.filter(kind=MEAN)["added_low"].is_null().all()
    few = spliced(sides, [text(shard, 1)], made([32], 4), sequences=2)
    assert few.filter(kind=SPLICED)["added_low"].is_null().all()


def test_two_tokenizers_are_spliced_at_the_same_characters(shard, tiny_model) -> None:
    """A crosscoder that gives each model the other's row puts in place just that."""
    other = other_tokenizer(shard)
    pair = [loud(tiny_model(settings, 2)) for settings in (DENSE, MOE)]
    shards, point = [shard, other], Point("resid_post", 0)
    masks = [
        kept_rows(own, DROP, False, [two]).mask
        for own, two in zip(shards, shards[::-1], strict=True)
    ]
    assert masks[0].sum() == masks[1].sum() > 100
    assert masks[0].shape != masks[1].shape
    sides = [Side(name, model, point) for name, model in zip("ab", pair, strict=True)]
    texts = [[Text(*own) for own in zip(shards, masks, strict=True)]]
    perfect = spliced(sides, texts, identity([32, 32]))
    for name in "ab":
        clean, found = (of(perfect, source=name, kind=kind) for kind in (CLEAN, SPLICED))
        assert abs(clean - found) <= 1e-6
        assert of(perfect, "recovered_zero", source=name, kind=SPLICED) == pytest.approx(1)
    assert [of(perfect, "tokens", source=n, kind=CLEAN) for n in "ab"] == [
        one_pass(own).target.sum() for own in shards
    ]

    swap = identity([32, 32], torch.eye(64).roll(32, 0))
    swap.mean.fill_(0.5)
    swap.scale.fill_(2.0)
    found = spliced(sides, texts, swap)
    given = []
    for model, own in zip(pair, shards, strict=True):
        starts = segment_starts(own.document)
        given.append(packed_inputs(model, own.tokens, starts))
    rows = []
    for model, inputs, mask in zip(pair, given, masks, strict=True):
        with torch.no_grad():
            states = families.backbone(model)(**inputs, output_hidden_states=True).hidden_states
        rows.append(states[1][torch.from_numpy(mask)])
    for s, model in enumerate(pair):
        with intervene(model, point, replaced(rows[1 - s]), torch.from_numpy(masks[s])):
            wanted = one_pass(shards[s], model).losses().mean()
        assert of(found, source="ab"[s], kind=SPLICED) == pytest.approx(wanted, abs=1e-5)
        assert abs(wanted - of(found, source="ab"[s], kind=CLEAN)) > 1e-2


def test_rows_that_are_not_kept_are_left_as_they_are(shard, tiny_model) -> None:
    model, point = loud(tiny_model(MOE)), Point("resid_post", 0)
    side, (shard, mask) = Side("a", model, point), text(shard, 1)[0]
    table = spliced([side], [[Text(shard, mask & False)]], made([32], 4))
    assert table.filter(domain=ALL)["cross_entropy"].n_unique() == 1
    assert table.filter(pl.col("kind") != CLEAN)["recovered_zero"].null_count() == 18

    inputs = packed_inputs(model, shard.tokens, segment_starts(shard.document))
    with Capture(model, [point]) as capture:
        norms = capture(**inputs).points[point].norm(dim=2).numpy()
    most = float(np.median(norms[mask]))
    assert most != pytest.approx(norms[mask], abs=1e-6)
    found = spliced([replace(side, most=most)], [[Text(shard, mask)]], made([32], 4))
    usual = spliced([side], [[Text(shard, mask & (norms <= most))]], made([32], 4))
    np.testing.assert_allclose(found["cross_entropy"], usual["cross_entropy"], atol=1e-6)
    whole = spliced([side], [[Text(shard, mask)]], made([32], 4))
    assert abs(of(whole, kind=ZERO) - of(found, kind=ZERO)) > 1e-3


def test_neither_batches_nor_shards_change_losses_and_only_the_first_are_used(
    shard, tiny_model
) -> None:
    sides = [Side("a", loud(tiny_model(MOE)), Point("mlp_out", 0))]
    dictionary = made([32], 16)
    dictionary.threshold.fill_(0.01)
    arrays = {n: value for n, value in vars(shard).items() if isinstance(value, np.ndarray)}
    parts = [
        replace(shard, **{n: array[start : start + 5] for n, array in arrays.items()}, first=start)
        for start in (0, 5)
    ]

    def read(count: int):
        yield from (text(part, 1) for part in parts[:count])
        raise AssertionError("another shard is read")

    whole = spliced(sides, [text(shard, 1)], dictionary, sequences=10)
    again = spliced(sides, read(2), dictionary, sequences=10, batch=3)
    np.testing.assert_allclose(whole["cross_entropy"], again["cross_entropy"], atol=1e-6)
    assert whole.drop(pl.selectors.float()).equals(again.drop(pl.selectors.float()))
    first = spliced(sides, read(1), dictionary, sequences=5, batch=2)
    few = spliced(sides, [text(parts[0], 1)], dictionary, sequences=99)
    np.testing.assert_allclose(first["cross_entropy"], few["cross_entropy"], atol=1e-6)
    most = spliced(sides, read(2), dictionary, sequences=7, batch=4)
    for table, count in ((whole, 10), (first, 5), (few, 5), (most, 7)):
        assert of(table, "tokens", kind=CLEAN) == one_pass(shard).target[:count].sum()


def test_a_domain_that_is_not_predicted_has_no_rows(shard, tiny_model) -> None:
    side = Side("a", tiny_model(DENSE).eval(), Point("resid_post", 0))
    more = replace(shard, domains=(*shard.domains, "another"))
    found = spliced([side], [text(more, 1)], made([32], 4))
    assert set(found["domain"]) == {ALL, *shard.domains}


def test_a_splice_that_cannot_be_is_refused(shard, tiny_model) -> None:
    side = Side("a", tiny_model(DENSE).eval(), Point("resid_post", 0))
    own, dictionary = text(shard, 1)[0], made([32, 32], 4)
    fewer = own[1].copy()
    fewer[0] = False
    with pytest.raises(UserError, match="different numbers of rows"):
        spliced([side] * 2, [[own, Text(shard, fewer)]], dictionary)
    with pytest.raises(UserError, match=r"features 'x': int64 \(4,\), needs bool \(4,\)"):
        spliced([side] * 2, [[own] * 2], dictionary, deleted={"x": np.zeros(4, int)})
    with pytest.raises(UserError, match=r"needs bool \(4,\)"):
        spliced([side] * 2, [[own] * 2], dictionary, deleted={"x": np.zeros(5, bool)})
    with pytest.raises(UserError, match="no token is predicted"):
        spliced([side] * 2, [], dictionary)
    beside = Side("a", tiny("gpt-neox"), Point("resid_mid", 1))
    with pytest.raises(UserError, match="resid_mid cannot be read in layer 1"):
        spliced([beside], [[own]], made([32], 4))
    strange = Side("a", tiny("minimax-m2"), Point("resid_post", 1))
    with pytest.raises(UserError, match="how its routing is frozen is not known"):
        spliced([strange], [[own]], made([32], 4))
    found = spliced([strange], [[own]], identity([32]), frozen=False)
    assert set(found["routing"]) == {LIVE}
    assert abs(of(found, kind=SPLICED) - of(found, kind=CLEAN)) <= 1e-6


def test_the_job(token_shard, tiny_model, tmp_path: Path, caplog) -> None:
    tokens = token_shard(sequences=6, length=24)
    shard, point = read_token_shard(tokens), Point("resid_post", 0)
    packed = shard.tokens, segment_starts(shard.document)
    origins, manifests = [], []
    for name, settings in (("dense", DENSE), ("moe", MOE)):
        model, folder = loud(tiny_model(settings)), tmp_path / name / "seed-0"
        loading.save(model, folder)
        loading.write_manifest(
            folder / "model.json", model, folder, ".", "float32", artifact.made_by("models")
        )
        origins.append({"model": loading.digest(folder), "hook": "resid_post.0"})
        manifests.append(folder / "model.json")
        with Capture(model, [point]) as capture:
            rows = capture(**packed_inputs(model, *packed)).points[point]
        norm = float(rows.norm(dim=2).median())
        measured = {"hook": "resid_post", "layer": 0, "median_norm": norm}
        points = {"points": {"default": measured}, "reading": {"drop": DROP}}
        artifact.write_json(folder / "points.json", points)
    table = pl.DataFrame({"class": ["common"] * 64 + ["A-only"] * 63 + ["dead"]})
    artifact.write_parquet(tmp_path / "features.parquet", table, artifact.made_by("metrics"))
    facts = artifact.made_by("dictionaries") | {"origins": origins}
    identity([32, 32]).save(tmp_path / "d.safetensors", facts)

    def run(changed: dict = MappingProxyType({}), **inputs) -> pl.DataFrame:
        files = {
            "dictionary": tmp_path / "d.safetensors",
            "features": tmp_path / "features.parquet",
            "models": manifests,
            "points": [path.parent / "points.json" for path in manifests],
            "tokens": [tokens],
        }
        params = {
            "sources": ["dense.0", "moe.0"], "models": ["dense", "moe"], "reads": [0, 0],
            "tokenizers": 1, "drop": DROP, "across": False, "sequences": 4, "batch": 2,
            "frozen": True,
        }  # fmt: skip
        run_script(
            "analysis/splice",
            tmp_path,
            input=files | inputs,
            output=[tmp_path / "splicing.parquet"],
            params=params | changed,
            wildcards={"comparison": "c", "member": "m", "recipe": "r", "seed": "3"},
            config={"device": "cpu", "models": {"dense": {}, "moe": {}}},
        )
        return artifact.read_parquet(tmp_path / "splicing.parquet")

    def groups(chosen: tuple[int, ...]) -> int:
        return len(np.unique(shard.group[list(chosen)]))

    most = list(max(itertools.combinations(range(6), 4), key=groups))
    assert groups(tuple(most)) > groups((0, 1, 2, 3))
    found = run()
    assert "no interval over fewer than 10 groups of documents (all" in caplog.text
    assert found.columns == ["comparison", "member", "recipe", "seed", *COLUMNS]
    assert found.row(0)[:4] == ("c", "m", "r", 3)
    kinds = {CLEAN, ZERO, MEAN, SPLICED, "without common", "without A-only"}
    assert set(found["kind"]) == kinds
    for source, routing in (("dense.0", LIVE), ("moe.0", LIVE), ("moe.0", FROZEN)):
        about = {"source": source, "routing": routing}
        clean, back, zero = (of(found, **about, kind=kind) for kind in (CLEAN, SPLICED, ZERO))
        assert abs(clean - back) <= 1e-6 < abs(clean - zero)
        assert of(found, "tokens", **about, kind=ZERO) == one_pass(shard).target[most].sum()
    moe = manifests[1].parent / "points.json"  # of one model alone: each has its own rule
    artifact.write_json(moe, points | {"reading": {"drop": DROP | {"massive_norm": 1.1}}})
    massive = run()
    losses_of = {of(one, source="moe.0", kind=k) for one in (found, massive) for k in (CLEAN, ZERO)}
    assert len(losses_of) == 3  # some rows are replaced, not all
    artifact.write_json(moe, points)

    other = other_tokenizer(shard)
    arrays = {name: value for name, value in vars(other).items() if isinstance(value, np.ndarray)}
    path = tmp_path / "other.h5"
    write_token_shard(path, arrays, other.domains, "other", 0, artifact.made_by("x"), [0])
    found = run({"tokenizers": 2, "reads": [0, 1]}, tokens=[tokens, path])
    for source, own in (("dense.0", shard), ("moe.0", other)):
        assert of(found, "tokens", source=source, kind=ZERO) == one_pass(own).target[most].sum()
        clean, back = (of(found, source=source, kind=kind) for kind in (CLEAN, SPLICED))
        assert abs(clean - back) <= 1e-6
    with pytest.raises(SystemExit):
        run(models=manifests[::-1])
