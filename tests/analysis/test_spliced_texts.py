"""Splicing over texts: of two tokenizers, in batches and shards, by domain and group; the job."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
import pytest
import torch

from conftest import DENSE, DROP, MOE
from families import tiny
from moediff.activations.kept_rows import kept_rows
from moediff.analysis.reruns import Text
from moediff.analysis.sides import Side
from moediff.analysis.splicing import ALL, CLEAN, COLUMNS, FROZEN, LIVE, MEAN, SPLICED, ZERO
from moediff.core import artifact
from moediff.core.bootstrap import group_bootstrap
from moediff.core.errors import UserError
from moediff.corpus.alignment import PADDING
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard, read_token_shard, write_token_shard
from moediff.hooks.capture import Capture
from moediff.hooks.interventions import intervene
from moediff.hooks.interventions import replace as replaced
from moediff.hooks.points import Point
from moediff.models import families, loading
from moediff.models.inputs import packed_inputs
from snake import run_script
from spliced import identity, loud, made, of, one_pass, spliced, text


@pytest.fixture
def shard(token_shard) -> TokenShard:
    return read_token_shard(token_shard(sequences=10, length=24))


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
