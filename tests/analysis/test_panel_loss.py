"""Loss of a panel's groups: shares known beforehand, and those of a plain dense computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from conftest import DENSE, DROP, MOE, VOCABULARY, write_tokens
from moediff.analysis.panel import EITHER, REST, Groups, group, judge, panel_rows
from moediff.analysis.panel_loss import (
    deletions,
    judge_loss,
    loss_intervals,
    loss_rows,
    own_deletions,
    source_losses,
    text_units,
)
from moediff.analysis.sides import Side
from moediff.analysis.splicing import ALL, CLEAN, LIVE, MEAN, SPLICED, Losses, splice, without
from moediff.core import artifact
from moediff.core.bootstrap import LEAST_GROUPS
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard, read_token_shard
from moediff.dictionaries.dictionary import Dictionary
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.models import build, loading
from moediff.models.families import blocks
from moediff.models.inputs import packed_inputs
from snake import run_script
from spliced import identity, made, of, one_pass, plain_reconstruction, text

NAMES = ["m0", "m1", "d0", "d1"]
KINDS = {"moe": NAMES[:2], "dense": NAMES[2:]}
POINT = Point("resid_post", 0)
WIDTHS = [32] * 4


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tokens.h5", 6, 24)


@pytest.fixture(scope="module")
def shard(tokens: Path) -> TokenShard:
    return read_token_shard(tokens)


@pytest.fixture(scope="module")
def sides(shard: TokenShard) -> list[Side]:
    """Two MoEs and two dense models, of which block 1 is behind the hook point, that know the text.

    What untrained ones lose by an ablation has either sign.
    """
    found = []
    for seed, (name, settings) in enumerate(zip(NAMES, (MOE, MOE, DENSE, DENSE), strict=True)):
        model = build.build(settings, VOCABULARY, 64, 0, seed)
        inputs = packed_inputs(model, shard.tokens, segment_starts(shard.document))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(30):
            logits = model(**inputs).logits[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), inputs["input_ids"][:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(Side(name, model.eval().requires_grad_(False), POINT))
    return found


def groups_of(members: dict[tuple[int, ...], np.ndarray], features: int) -> Groups:
    """Features [F] of bool of some sets of the four sources; all others have no users."""
    used = np.zeros((features, 4), bool)
    for sources, mask in members.items():
        used[np.ix_(mask, sources)] = True
    return group(used, 2)


def spliced(sides, shard, dictionary: Dictionary, groups: Groups) -> Losses:
    deleted, within = deletions(groups)
    return splice(
        sides, [text(shard, 4)], dictionary, False, 6, 4, False, deleted, within, list(deleted)
    )  # fmt: skip


def measured(sides, shard, dictionary: Dictionary, groups: Groups) -> pl.DataFrame:
    return spliced(sides, shard, dictionary, groups).table


def row_of(rows: list[dict], sources: tuple[int, ...]) -> dict:
    (row,) = (row for row in rows if row["sources"] == [NAMES[s] for s in sources])
    return row


# --- by hand ------------------------------------------------------------------------------------


def test_what_is_deleted_are_groups_with_features_in_their_own_sources() -> None:
    used = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], bool)
    groups = group(used, 2)
    deleted, within = deletions(groups)
    found = {within[name]: mask.tolist() for name, mask in deleted.items()}
    assert found == {
        (0, 1): [True, False, True, False, False],
        (2,): [False, True, False, False, False],
        (0, 1, 2, 3): [False, False, False, False, True],
    }
    assert set(deleted) == set(within)
    assert (groups.group_of == REST).tolist() == [False, False, False, True, False]


def table(values: dict[tuple[str, str], float]) -> pl.DataFrame:
    """Losses as of `splice`: of all domains, and others that no share may come from."""
    every = [
        {"source": source, "kind": kind, "domain": domain, "routing": routing, "tokens": 10,
         "cross_entropy": loss + offset, "recovered_mean": 0.5}
        for (source, kind), loss in values.items()
        for domain, routing, offset in ((ALL, LIVE, 0.0), ("odd", LIVE, 7.0), (ALL, "frozen", 9.0))
    ]  # fmt: skip
    return pl.DataFrame(every)


def test_shares_are_of_the_loss_that_is_recovered() -> None:
    groups = groups_of({(0, 1): np.array([True, True, False]),
                        (3,): np.array([False, False, True])}, 3)  # fmt: skip
    names = {within: name for name, within in deletions(groups)[1].items()}
    values = {(name, kind): loss for name in NAMES
              for kind, loss in ((CLEAN, 2.0), (SPLICED, 2.5), (MEAN, 4.5))}  # fmt: skip
    values |= {("m0", f"without {names[0, 1]}"): 3.0, ("m1", f"without {names[0, 1]}"): 2.4}
    values |= {("d1", f"without {names[(3,)]}"): 4.5}
    rows = loss_rows(table(values), groups, NAMES)
    own = row_of(rows, (0, 1))
    assert own["features"] == 2
    assert own["shares"] == pytest.approx({"m0": 0.25, "m1": -0.05})
    assert own["share"] == pytest.approx(0.1)
    assert row_of(rows, (3,))["shares"] == {"d1": 1.0}
    assert row_of(rows, (2, 3)) == {
        "sources": ["d0", "d1"], "features": 0, "share": 0.0, "shares": {"d0": 0.0, "d1": 0.0},
    }  # fmt: skip
    (first, *_) = source_losses(table(values), NAMES)
    assert first == {"source": "m0", "clean": 2.0, "spliced": 2.5, "mean": 4.5, "tokens": 10,
                     "recovered_mean": 0.5}  # fmt: skip
    plain = panel_rows(groups, np.zeros((len(groups.sets), 4)), NAMES)
    assert [row["sources"] for row in rows] == [row["sources"] for row in plain]
    judged = {row["kind"]: row for row in judge_loss(rows, KINDS)}
    assert {row["statistic"] for row in judged.values()} == {"loss"}
    assert judged["moe"]["observed"] == pytest.approx(0.1)
    assert judged[EITHER]["observed"] == pytest.approx(0.05)
    assert judged[EITHER]["p"] == judged[EITHER]["smallest_p"] == pytest.approx(1 / 3)
    shares = [row for row in judge(rows, KINDS) if row["statistic"] == "share"]
    assert [row | {"statistic": "share"} for row in judged.values()] == shares


def test_groups_of_documents_make_up_what_goes_with_a_group() -> None:
    groups = groups_of({(0, 1): np.array([True, True, False]),
                        (3,): np.array([False, False, True])}, 3)  # fmt: skip
    names = {within: without(name) for name, within in deletions(groups)[1].items()}
    values = {(name, kind): loss for name in NAMES
              for kind, loss in ((CLEAN, 2.0), (SPLICED, 2.5), (MEAN, 4.5))}  # fmt: skip
    values |= {("m0", names[0, 1]): 3.0, ("m1", names[0, 1]): 2.4, ("d1", names[(3,)]): 4.5}
    extra = np.random.default_rng(0).normal(0, 0.1, 20)
    extra -= extra.mean()  # sums are those of the table
    whole = table(values).with_columns(tokens=pl.lit(60))
    parts = [
        {"source": source, "routing": routing, "kind": kind, "domain": "ab"[number % 2],
         "group": 7 * number, "tokens": 3,
         "added": 3 * (loss - 2.0 + (extra[number] if kind == names[0, 1] else 0.0))}
        for (source, kind), loss in values.items() if kind not in (CLEAN, MEAN)
        for routing in (LIVE, "frozen")
        for number in reversed(range(20))
    ]  # fmt: skip
    for row in parts:
        if row["routing"] == "frozen":
            row["added"] *= 9  # of no account here
    parts = [row for row in parts if row["group"] or not row["source"].startswith("d")]
    found = loss_intervals(Losses(whole, pl.DataFrame(parts)), groups, KINDS)
    counted = text_units(Losses(whole, pl.DataFrame(parts))).counts()
    assert counted == {"all": 20, "a": 10, "b": 10}
    low, high = found["moe"]
    assert (
        0.05 < low < 0.09 < 0.1 < 0.11 < high < 0.15
    )  # 0.1 of 2 nats, known to 0.1 / sqrt(20) / 2
    bound = 1 - 0.025 ** (1 / 20)  # no feature is all dense models' own: nothing in 20 groups
    assert found["dense"] == pytest.approx([0.0, bound])
    assert found[EITHER] == pytest.approx([low / 2, high / 2], rel=0.1)
    assert own_deletions(groups, KINDS) == [names[0, 1].removeprefix(without(""))]
    nothing = whole.with_columns(
        cross_entropy=pl.when(kind=SPLICED).then(5.0).otherwise("cross_entropy")
    )
    none = loss_intervals(Losses(nothing, pl.DataFrame(parts)), groups, KINDS)
    assert none == dict.fromkeys((*KINDS, EITHER))


def test_groups_of_documents_add_up_to_the_losses(shard, sides) -> None:
    owner = np.tile(np.repeat(np.arange(4), 32), 2)
    groups = groups_of({(0, 1): owner == 0, (2, 3): owner == 1}, 256)
    found = spliced(sides, shard, mixing(), groups)
    sums = found.by_group.group_by("source", "routing", "kind").agg(pl.sum("tokens", "added"))
    for row in sums.iter_rows(named=True):
        (whole,) = found.table.filter(
            pl.col("domain") == ALL, *(pl.col(key) == row[key] for key in ("source", "routing", "kind"))
        ).iter_rows(named=True)  # fmt: skip
        assert row["tokens"] == whole["tokens"]
        assert row["added"] / row["tokens"] == pytest.approx(whole["added"])
    assert sums["kind"].n_unique() == 3
    columns = ["source", "routing", "kind", "domain", "group"]
    assert not found.by_group.select(columns).is_duplicated().any()
    run = one_pass(shard)
    of_tokens = {(shard.domains[d], g) for g, d in zip(*run.units, strict=True)}
    assert set(found.by_group.select("domain", "group").iter_rows()) == of_tokens


@pytest.mark.parametrize("spliced", [4.5, 4.6])
def test_of_nothing_recovered_there_is_no_share(spliced: float) -> None:
    groups = groups_of({(0, 1): np.array([True])}, 1)
    (name,) = deletions(groups)[0]
    values = {(source, kind): loss for source in NAMES
              for kind, loss in ((CLEAN, 2.0), (SPLICED, 2.5), (MEAN, 4.5))}  # fmt: skip
    values |= {("m0", f"without {name}"): 3.0, ("m1", f"without {name}"): 4.7}
    values["m1", SPLICED] = spliced
    rows = loss_rows(table(values), groups, NAMES)
    assert row_of(rows, (0, 1))["share"] is None
    assert row_of(rows, (0, 1))["shares"] == {"m0": 0.25, "m1": None}
    assert row_of(rows, (2, 3))["share"] == 0.0
    assert judge_loss(rows, KINDS) == []


# --- models run again ---------------------------------------------------------------------------


def test_all_that_a_source_has_is_worth_its_mean_ablation(shard, sides) -> None:
    """Each feature reads and writes a coordinate of one source."""
    owner = np.tile(np.repeat(np.arange(4), 32), 2)
    groups = groups_of({(s,): owner == s for s in range(4)}, 256)
    found = measured(sides, shard, identity(WIDTHS), groups)
    rows = loss_rows(found, groups, NAMES)
    for s, name in enumerate(NAMES):
        assert row_of(rows, (s,))["features"] == 64
        assert row_of(rows, (s,))["shares"] == {name: pytest.approx(1, abs=1e-9)}
        clean, mean = (of(found, source=name, kind=kind) for kind in (CLEAN, MEAN))
        assert abs(mean - clean) > 1e-2
    runs = found.filter(pl.col("kind").str.starts_with("without"), domain=ALL)
    assert runs["source"].to_list() == NAMES  # each deletion in its own source alone


def test_what_writes_nothing_in_a_source_is_worth_nothing_there(shard, sides) -> None:
    owner = np.tile(np.repeat(np.arange(4), 32), 2)
    groups = groups_of({(0, 1): owner == 0, (2, 3): owner == 1, (0, 1, 2, 3): owner == 3}, 256)
    rows = loss_rows(measured(sides, shard, identity(WIDTHS), groups), groups, NAMES)
    assert row_of(rows, (0, 1))["shares"] == pytest.approx({"m0": 1, "m1": 0}, abs=1e-9)
    assert row_of(rows, (2, 3))["shares"] == pytest.approx({"d0": 0, "d1": 0}, abs=1e-9)
    everyone = row_of(rows, (0, 1, 2, 3))
    assert everyone["shares"] == pytest.approx({"m0": 0, "m1": 0, "d0": 0, "d1": 1}, abs=1e-9)
    assert everyone["share"] == pytest.approx(0.25)


def mixing() -> Dictionary:
    """Features that read one source and write mostly there, and a little in all others."""
    random = torch.Generator().manual_seed(4)
    return identity(WIDTHS, torch.eye(128) + 0.05 * torch.randn(128, 128, generator=random))


def test_shares_are_those_of_a_plain_dense_computation(shard, sides) -> None:
    """A hook on the block itself, and the loss token by token in float64."""
    dictionary, random = mixing(), np.random.default_rng(1)
    drawn = random.integers(0, 4, 256)
    members = {(0, 1): drawn == 0, (1, 3): drawn == 1, (0, 1, 2, 3): drawn == 2}
    groups = groups_of(members, 256)
    rows = loss_rows(measured(sides, shard, dictionary, groups), groups, NAMES)

    mask = torch.from_numpy(text(shard, 1)[0][1])
    starts = segment_starts(shard.document)
    given = [packed_inputs(side.model, shard.tokens, starts) for side in sides]
    activations = []
    for side, inputs in zip(sides, given, strict=True):
        with Capture(side.model, [POINT]) as capture:
            activations.append(capture(**inputs).points[POINT][mask])

    def loss(s: int, values: torch.Tensor) -> float:
        def put(_, __, out):
            stream = (out if isinstance(out, torch.Tensor) else out[0]).clone()
            stream[mask] = values[:, 32 * s : 32 * s + 32].float()
            return stream if isinstance(out, torch.Tensor) else (stream, *out[1:])

        handle = blocks(sides[s].model)[0].register_forward_hook(put)
        with torch.no_grad():
            logits = sides[s].model(**given[s]).logits.double()
        handle.remove()
        each = [
            -F.log_softmax(logits[row, position], -1)[int(shard.tokens[row, position + 1])]
            for row, position in zip(*np.nonzero(~starts[:, 1:]), strict=True)
        ]
        return float(torch.stack(each).mean())

    whole = plain_reconstruction(dictionary, activations)
    mean = dictionary.mean.double().expand(len(whole), -1)
    for sources, gone in members.items():
        less = plain_reconstruction(dictionary, activations, gone)
        for s in sources:
            spliced = loss(s, whole)
            wanted = (loss(s, less) - spliced) / (loss(s, mean) - spliced)
            assert abs(wanted) > 1e-3
            assert row_of(rows, sources)["shares"][NAMES[s]] == pytest.approx(wanted, abs=2e-5)
    shares = row_of(rows, (0, 1))["shares"]
    assert row_of(rows, (0, 1))["share"] == pytest.approx(np.mean(list(shares.values())))
    assert row_of(rows, (0, 2)) == {"sources": ["m0", "d0"], "features": 0, "share": 0.0,
                                    "shares": {"m0": 0.0, "d0": 0.0}}  # fmt: skip


# --- the job ------------------------------------------------------------------------------------


def test_the_job(tokens: Path, shard, sides, tmp_path: Path) -> None:
    origins, manifests = [], []
    for side in sides:
        folder = tmp_path / side.name
        loading.save(side.model, folder)
        loading.write_manifest(
            folder / "model.json", side.model, folder, ".", "float32", artifact.made_by("models")
        )
        origins.append({"model": loading.digest(folder), "hook": "resid_post.0"})
        manifests.append(folder / "model.json")
        measured_point = {"hook": "resid_post", "layer": 0, "median_norm": 1.0}
        points = {"points": {"default": measured_point}, "reading": {"drop": DROP}}
        artifact.write_json(folder / "points.json", points)
    drawn = np.random.default_rng(1).integers(0, 3, 256)
    groups = groups_of({(0, 1): drawn == 0, (0, 2): drawn == 1, (2, 3): drawn == 2}, 256)
    used = np.array([[s in groups.sets[g] for s in range(4)] for g in groups.group_of])
    explained = pl.DataFrame({f"used_{name}": used[:, s] for s, name in enumerate(NAMES)})
    artifact.write_parquet(tmp_path / "explained.parquet", explained, artifact.made_by("panel"))

    def run(dictionary: Dictionary, paths: list[Path] = manifests) -> dict:
        facts = artifact.made_by("dictionaries") | {"origins": origins}
        dictionary.save(tmp_path / "d.safetensors", facts)
        run_script(
            "analysis/panel_loss",
            tmp_path,
            input={
                "dictionary": tmp_path / "d.safetensors", "explained": tmp_path / "explained.parquet",
                "models": paths, "points": [path.parent / "points.json" for path in manifests],
                "tokens": [tokens],
            },
            output=[tmp_path / "panel_loss.json"],
            params={
                "sources": NAMES, "models": ["moe", "moe", "dense", "dense"], "kinds": KINDS,
                "reads": [0] * 4, "tokenizers": 1, "drop": DROP, "across": False, "sequences": 4,
                "batch": 3,
            },
            wildcards={"comparison": "c", "member": "m", "recipe": "r", "seed": "3"},
            config={"device": "cpu", "models": {"dense": {}, "moe": {}}},
        )  # fmt: skip
        return artifact.read_json(tmp_path / "panel_loss.json")

    found = run(mixing())
    about = [found[key] for key in ("comparison", "member", "recipe", "seed", "sequences")]
    assert about == ["c", "m", "r", 3, 4]
    assert found["kinds"] == KINDS
    deleted, within = deletions(groups)
    wanted = splice(
        sides, [text(shard, 4)], mixing(), False, 4, 3, False, deleted, within, list(deleted),
        LEAST_GROUPS,
    )  # fmt: skip
    assert found["losses"] == source_losses(wanted.table, NAMES)
    assert found["groups"] == loss_rows(wanted.table, groups, NAMES)
    intervals = loss_intervals(wanted, groups, KINDS)
    assert found["text_groups"] == text_units(wanted).counts()
    assert found["text_groups"]["all"] == len(wanted.by_group.select("domain", "group").unique())
    assert found["judged"] == judge_loss(found["groups"], KINDS, intervals)
    assert len(found["judged"]) == 3
    assert sum(row["features"] for row in found["groups"]) == 256
    assert run(made(WIDTHS, 256))["judged"] == []  # nothing fires, and so nothing is recovered
    with pytest.raises(SystemExit):
        run(mixing(), manifests[::-1])
