"""What the later stages make of small worlds, for the golden values of tests/project/test_versions.py.

One function a stage. Inputs are made by hand or read off tiny models by random dictionaries, so that no fit
decides an outcome. An outcome is a list of texts and numbers: none is a rank
among ties or a count at a threshold that another machine's rounding could pass.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import altair as alt
import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel

from conftest import PRESETS, SCHEMA, cached
from exchanged import made as weighted
from moediff.activations.rows import AlignedRows
from moediff.analysis import (
    controls,
    deletion,
    detectable,
    divergence,
    examples,
    kinds,
    linear_map,
    matching,
    moved,
    panel,
    panel_loss,
    similarity,
    splicing,
    trend,
)
from moediff.analysis.reruns import Rerun, Text
from moediff.claims import findings, judging, reading
from moediff.config import schema
from moediff.config.complete import complete
from moediff.core import artifact
from moediff.core.bootstrap import Units
from moediff.core.resampling import PERMUTED
from moediff.core.terms import KNOWN, LABELLINGS
from moediff.corpus.token_shards import TokenShard
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.exchange import crosscoders, hub, saelens
from moediff.experts import affinity, attribution, masking
from moediff.hooks.points import Point
from moediff.report import notes, page
from moediff.report.budget import clock, rates, rates_together, table
from moediff.report.charts import dictionaries, features
from moediff.report.charts.classes import classes_chart
from moediff.report.charts.experts import affinity_chart
from moediff.report.charts.kinds import map_chart, splits_chart
from moediff.report.charts.panel import panel_chart
from moediff.report.charts.splicing import domains_chart
from moediff.report.charts.synthetic import planted_chart
from moediff.report.charts.training import training_chart
from moediff.report.finding import Finding
from moediff.synthetic import grid, methods
from moediff.synthetic.planted import owned, planted, stored
from moediff.synthetic.scoring import Found, score
from moediff.synthetic.world import World
from routed import made_dictionary
from spliced import identity, text
from usages import explained
from workflow import TINY

CPU = torch.device("cpu")
NAMES = ["moe.0", "moe.1", "dense.0", "dense.1"]
KINDS = {"moe": NAMES[:2], "dense": NAMES[2:]}
FIVE = [*NAMES, "dense.2"]
Outcome = list[str | float | None]


@dataclass(frozen=True)
class Small:
    """Two tiny trained models and their rows at the end of layer 1, a MoE's before a dense one's."""

    models: Mapping[str, PreTrainedModel]  # moe and dense
    tokens: TokenShard
    rows: AlignedRows  # of both
    folder: Path  # for what a stage writes


def flat(value: object) -> Iterator[str | float | None]:
    """Texts and numbers of nested rows, keys left out, in order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from flat(part)
    elif value is None or isinstance(value, str):
        yield value
    else:
        yield float(value)


def means(table: pl.DataFrame, *columns: str) -> list[float]:
    """The mean of columns, what is not known left out."""
    return [float(table[name].drop_nulls().drop_nans().mean()) for name in columns]


# --- what is measured of rows -----------------------------------------------------------------------


def of_anchor(small: Small) -> Outcome:
    parts = [linear_map.gram(small.rows, 4096, half) for half in linear_map.halves(small.rows)]
    whole = linear_map.gram(small.rows, 4096)
    width = small.rows.widths[0]
    columns = [slice(0, width), slice(width, sum(small.rows.widths))]
    return [
        linear_map.ridge_r2(*parts, whole, source, target)[0]
        for source, target in (columns, columns[::-1])
    ]


def of_similarity(small: Small) -> Outcome:
    table = similarity.similarities(*similarity.sample(small.rows, 512), ["moe.0", "dense.0"])
    return list(flat(table.drop("calibrated").rows()))


def of_moved(small: Small) -> Outcome:
    return list(flat(moved.moved(small.rows, 256).rows()))


def of_deletion(small: Small) -> Outcome:
    dictionary = made_dictionary(small.rows, 24)
    lost = deletion.deleted_together(dictionary, small.rows, np.arange(24) % 3, 3, 256, CPU)
    rows = [
        {"recipe": "r", "comparison": "c", "member": member, "seed": 0, "sources": sources,
         "class": name, "count": count}
        for member, sources, counts in (
            ("seeds", ["moe.0", "moe.1"], (3, 90, 7)), ("turned", ["moe.0", "moe.0.rotated"], (0, 9, 1)),
            ("mixed", ["moe.0", "dense.0.permuted"], (4, 2, 4)), ("pair", ["moe.0", "dense.0"], (5, 5, 5)),
        )
        for name, count in zip(("A-only", "common", "B-only"), counts, strict=True)
    ]  # fmt: skip
    return [*lost.ravel().tolist(), *flat(controls.error_rates(rows))]


def of_recurrence(small: Small) -> Outcome:
    both = made_dictionary(small.rows, 24)
    alone = AlignedRows([[shard.path for shard in small.rows.sources[0]]])
    every = AlignedRows([[s.path for s in small.rows.sources[n]] for n in (0, 1, 0)])
    (best,) = matching.best_matches(both, [made_dictionary(alone, 16)], every, 256, CPU)
    known = {
        "moe.0": matching.Matches(np.array([0.9, 0.75, np.nan]), np.array([4, 2, matching.NONE])),
        "moe.1": matching.Matches(np.array([0.8, 0.2, np.nan]), np.array([1, 0, matching.NONE])),
    }
    table = matching.recurrence(known, {"moe": ["moe.0", "moe.1"]}, ["moe.0"])
    return [float(np.nanmean(best.correlation)), float(np.nanmax(best.correlation)),
            *flat(table.rows())]  # fmt: skip


def of_examples(small: Small) -> Outcome:
    """A digest: rows are whole numbers, each feature reads one column of them, and so all is exact."""
    rows = np.random.default_rng(0).integers(-9, 10, (600, 8)).astype(np.float32)
    data = AlignedRows(stored([rows], small.folder / "examples"))
    dictionary = identity([8])
    dictionary.mean.zero_()
    dictionary.scale.fill_(1.0)
    dictionary.threshold.fill_(4.0)
    words = Tokenizer(models.WordLevel({"w": 0}, unk_token="w"))
    table = examples.feature_examples(dictionary, data, words, 256, CPU)
    return [artifact.digest(table.columns, table.rows())]


# --- panels -----------------------------------------------------------------------------------------


def of_panel(small: Small) -> Outcome:
    """Of 60 features: 20 of all, 12 of the MoEs, 8 of the dense models, others of one or a mixed pair."""
    users = [(0, 1, 2, 3)] * 20 + [(0, 1)] * 12 + [(2, 3)] * 8 + [(0, 2)] * 5 + [(1,)] * 15
    alone = np.full((60, 4), 1e-4)
    for feature, sources in enumerate(users):
        alone[feature, list(sources)] = 0.01 + 0.001 * (feature % 7)
    used = panel.users(alone, np.arange(60) != 59, 0.2)
    groups = panel.group(used, 2)
    together = np.zeros((len(groups.sets), 4))
    for feature, number in enumerate(groups.group_of):
        if number != panel.REST:
            together[number] += alone[feature]
    rows = panel.panel_rows(groups, together, NAMES)
    number = np.arange(80)
    weight = 1 + number % 5
    held = np.repeat(weight[:, None] / weight.sum(), 4, axis=1)
    lost = np.stack([held * (0.1 + 0.01 * (number % 3))[:, None], held * 0.05])
    units = Units(number // 2, number // 40)
    intervals = panel.text_intervals(lost, held, units, KINDS)
    domains = panel.own_domains(used, alone.sum(1), ["a", "b", None] * 20, 2)
    return list(flat([
        panel.by_users(used), panel.counts(groups, KINDS), domains,
        panel.judge(rows, KINDS, intervals),
    ]))  # fmt: skip


def of_kinds(small: Small) -> Outcome:
    told = explained(np.random.default_rng(0), 40, (2, 3), times=30.0, share=0.4)
    two = {"moe": FIVE[:2], "dense": FIVE[2:]}
    domains = [["code", "prose", None][feature % 3] for feature in range(40)]
    spent = kinds.by_domain(kinds.ordered_usage(told, FIVE, two), two, domains)
    return list(flat([kinds.graded_usage(told, FIVE, two), spent]))


def of_trend(small: Small) -> Outcome:
    told = explained(np.random.default_rng(0), 40, (2, 3), times=30.0, share=0.4)
    found = trend.trend(told, FIVE, {"moe": 8, "dense": 1}, {"moe": FIVE[:2], "dense": FIVE[2:]})
    return list(flat([found["rows"], found["judged"], found["squared_distances"]]))


def of_detectable(small: Small) -> Outcome:
    """Two tries: one whose side differs, one whose side is another."""
    side = detectable.side_of_try(5, 2, 1)
    told = explained(np.random.default_rng(0), 40, (2, 3), times=30.0, share=0.4)
    planted = np.empty_like(told)
    planted[:, side], planted[:, ~side] = told[:, :2], told[:, 2:]
    tries = []
    for number, where in enumerate((side, detectable.side_of_try(5, 2, 2))):
        part = np.outer(np.arange(40) % 7, where)
        statistics = detectable.judged(planted, FIVE, where, 0.2)
        statistics["catalogue"] = detectable.carrier(part, planted, where)
        tries.append({"share": 0.1 + number, "strength": None, "statistics": statistics})
    return list(flat([tries, detectable.least(tries)]))


def of_panel_loss(small: Small) -> Outcome:
    """Features that read one coordinate each, so that the reconstruction is the rows themselves."""
    drawn = np.random.default_rng(1).integers(0, 3, 256)
    used = np.zeros((256, 4), bool)
    for number, sources in enumerate([(0, 1), (0, 2), (2, 3)]):
        used[np.ix_(drawn == number, sources)] = True
    groups = panel.group(used, 2)
    deleted, within = panel_loss.deletions(groups)
    point = Point("resid_post", 0)
    sides = [splicing.Side(name, small.models[name.partition(".")[0]], point) for name in NAMES]
    losses = splicing.splice(
        sides, [text(small.tokens, 4)], identity([32] * 4), False, 8, 8, False, deleted, within,
        panel_loss.own_deletions(groups, KINDS),
    )  # fmt: skip
    rows = panel_loss.loss_rows(losses.table, groups, NAMES)
    intervals = panel_loss.loss_intervals(losses, groups, KINDS)
    judged = panel_loss.judge_loss(rows, KINDS, intervals)
    kept = [
        [row[key] for key in ("kind", "observed", "median_other", "interval")] for row in judged
    ]
    return list(flat([panel_loss.source_losses(losses.table, NAMES), kept]))


# --- models run again -------------------------------------------------------------------------------


def of_splicing(small: Small) -> Outcome:
    sides = [splicing.Side(f"{name}.0", model, Point("resid_post", 0))
             for name, model in small.models.items()]  # fmt: skip
    some = np.arange(128) % 4 == 0
    losses = splicing.splice(
        sides, [text(small.tokens, 2)], identity([32] * 2), False, 8, 8, True, {"some": some}
    )
    # With zeros in place a router has no choice but among ties.
    rows = losses.table.filter(pl.col("kind") != splicing.ZERO, domain=splicing.ALL).select(
        "source", "routing", "kind", "cross_entropy", "recovered_mean", "tokens"
    )
    return list(flat(rows.rows()))


def of_divergence(small: Small) -> Outcome:
    models = list(small.models.values())
    table = divergence.divergence(models, [Text(small.tokens)], False, 24, 8)
    # Neither which token is first nor which domain: rounding could change both.
    return list(flat(table.drop("top1_agreement").sort("domain").rows()))


def of_experts(small: Small) -> Outcome:
    point = ("mlp_out", 1)
    path = small.folder / "mlp_out.zarr.zip"
    cached(small.models["moe"], small.tokens, path, [point], "float32")
    rows = AlignedRows([[path]])
    dictionary = made_dictionary(rows, 24, 0.2)
    again = Rerun(small.models["moe"], small.tokens, False, 16, 8)
    told = affinity.feature_affinity(dictionary, rows, 0, [1], 256, CPU)
    shares = attribution.written(dictionary, rows, 0, again, CPU)
    lost = masking.masked_firing(dictionary, rows, 0, again, 1, np.arange(24) % 4, CPU)
    return [
        *means(told, "fired", "corrected", "whole_information", "whole_null_mean", "whole_z"),
        *means(shares, "pre_activation", "expert_0", "expert_3", "shared", "constant"),
        *means(lost, "lost", "lost_other", "gate", "gate_other"),
    ]


# --- claims -----------------------------------------------------------------------------------------

_CLAIM = {"paper": "2603.05805", "statement": "so", "contrast": "one against the other",
          "direction": "above", "minimum_effect": 0.5, "fidelity": "faithful"}  # fmt: skip
CLAIMS = {
    "alpha": 0.05,
    "primary": {"moe": "moe", "dense": "dense", "hook": "resid_post", "layer": 0.5, "recipe": "default",
                "features": 64, "k": 4, "bounds": [0.3, 0.7], "user_floor": 0.2},
    "penalties": {"strong": "paper", "weak": "paper-weak"},
    "limits": {"nats_over_trigram": 0.1, "firings_per_feature": 100, "moved": 0.1, "rotated": 0.05,
               "permuted": 0.95},
    "claims": [
        _CLAIM | {"id": "order", "metric": "density_order_margin", "null": PERMUTED,
                  "primary": True},
        _CLAIM | {"id": "fewer", "metric": "log2_moe_only_over_dense_only", "null": PERMUTED,
                  "direction": "below", "opposite": True, "primary": True},
        _CLAIM | {"id": "panel", "metric": "panel_moe_only_variance", "null": LABELLINGS,
                  "minimum_effect": 0.01, "primary": True},
        _CLAIM | {"id": "level", "metric": "fve_pooled", "null": KNOWN, "direction": "near",
                  "reference": 0.87, "minimum_effect": 0.05},
        _CLAIM | {"id": "second", "metric": "panel_either_variance", "null": LABELLINGS},
        _CLAIM | {"id": "gain", "metric": "fve_gain_shared_penalty", "null": KNOWN, "reference": 0,
                  "minimum_effect": 0.01},
    ],
}  # fmt: skip


def _pair(first: str, second: str) -> findings.Pair:
    """More features of the dense model's own than of the MoE's, and denser ones of the MoE's."""
    names = [*(f"moe.{n}" for n in range(4)), *(f"dense.{n}" for n in range(4))]
    a, b = names.index(first), names.index(second)
    counts = {
        "A-only": 3 + (a >= 4) * 9 + a,
        "common": 40,
        "B-only": 3 + (b >= 4) * 9 + b,
        "tied": 6,
    }
    density = {"A-only": 0.1 if a < 4 else 0.001, "common": 0.01, "B-only": 0.1 if b < 4 else 0.001,
               "tied": 0.3}  # fmt: skip
    relative = {"A-only": 0.05, "common": 0.5, "B-only": 0.95, "tied": 0.5}
    table = pl.DataFrame(
        [
            {"class": name, "density": density[name] * (1 + n % 3), "relative_norm": relative[name],
             "decoder_cosine": 0.2, "top_domain_share": 0.5 + 0.1 * (n % 2)}
            for name, count in counts.items() for n in range(count)
        ]
    )  # fmt: skip
    return findings.Pair((first, second), "default", 0.86 + a / 200, 0.85, table, 0.1, 4000)


def of_claims(small: Small) -> Outcome:
    sources = [f"{kind}.{n}" for kind in ("moe", "dense") for n in range(4)]
    pairs = [_pair(a, b) for a, b in itertools.combinations(sources, 2)]
    moes = set(sources[:4])
    measured = findings.pair_findings(pairs, moes)
    groups = [
        {"sources": list(side), "features": len(moes & set(side)),
         "share": 0.02 + 0.01 * (len(moes & set(side)) == 4) + 0.001 * len(moes & set(side))}
        for side in itertools.combinations(sources, 4)
    ]  # fmt: skip
    kinds = {"moe": sources[:4], "dense": sources[4:]}
    judged = panel.judge(groups, kinds, {kind: [0.01, 0.05] for kind in (*kinds, panel.EITHER)})
    panel_of_all = {"kinds": kinds, "groups": groups, "judged": judged}
    measured |= findings.panel_findings([panel_of_all], moes, "variance")
    wanted = reading.checked(json.loads(json.dumps(CLAIMS)))
    rows = judging.judge(wanted, measured, CLAIMS["primary"])["claims"]
    withheld = judging.reasons_to_withhold(
        wanted["limits"],
        {"moe/seed-0": 2.0},
        2.05,
        {"pair/0": {"A-only": 40.0}},
        {},
        {"rotated": 0.2},
    )
    keys = ("id", "verdict", "estimate", "interval", "effect", "p", "p_holm")
    return list(flat([
        [[row[key] for key in keys] for row in rows],
        [findings.sensitivity(pairs[:1], 100)[0]["density_moe_only_over_common"]],
        [str(len(withheld)), *withheld],
    ]))  # fmt: skip


# --- files of other libraries -----------------------------------------------------------------------


def of_exports(small: Small) -> Outcome:
    facts = {
        "format": artifact.FORMAT, "sources": ["moe.0", "dense.0"], "recipe": {"select": "batchtopk", "k": 6},
        "origins": [{"model": "made", "hook": "resid_post.1"}] * 2,
    }  # fmt: skip
    alone = {key: value[:1] if isinstance(value, list) else value for key, value in facts.items()}
    saelens.save(weighted([12]), small.folder / "saelens", alone)
    crosscoders.save(weighted([12, 12]), small.folder / "crosscoder", facts)
    weighted([12, 10]).save(small.folder / "made.safetensors", facts)
    hub.save_folder(small.folder / "made.safetensors", small.folder / "hub")
    outcome: Outcome = []
    for folder, weights in (("saelens", saelens.WEIGHTS), ("crosscoder", crosscoders.WEIGHTS),
                            ("hub", hub.WEIGHTS)):  # fmt: skip
        for path in sorted((small.folder / folder).iterdir()):
            if path.name == weights:
                tensors, _ = artifact.read_tensors(path)
                for name in sorted(tensors):
                    values = tensors[name].double().numpy().ravel()
                    outcome += [name, float((values * np.cos(np.arange(values.size))).sum())]
            else:
                outcome += [path.name, artifact.digest_files([path])]
    return outcome


# --- worlds of known truth --------------------------------------------------------------------------


class _Known(World):
    """A world whose dictionaries have exactly the planted features, in place of fitted ones."""

    def dictionary(self, recipe: str, sources: tuple[int, ...]) -> Dictionary:
        parts = [torch.from_numpy(self.truth.parts()[s]).float() for s in sources]
        rows = torch.cat(parts, dim=1)
        rows = rows[rows.norm(dim=1) > 0]
        widths = tuple(part.shape[1] for part in parts)
        shape = Shape(widths, 0, len(rows), (0,) * len(widths), "norm", "summed")
        dictionary = Dictionary(shape).requires_grad_(False)
        block = dictionary.blocks["free"]
        block.weight.copy_(rows)
        block.encoder.copy_(rows / rows.square().sum(1, keepdim=True))
        dictionary.threshold.fill_(0.45)
        return dictionary


def of_planted(small: Small) -> Outcome:
    settings = {
        "models": 2, "rows": 400, "validation": 400, "width": 64, "features": 20, "active": 2, "lr": 0.02,
        "seeds": {"choose": [0], "score": [1]},
        "base": {"scale": 1, "basis": "independent", "missed": 0, "noise": 0.01, "unique": 0.4,
                 "strength": 12, "penetrance": 1, "variation": 0.1, "zipf": 0.5, "correlation": 0.3,
                 "children": 0.3},
        "factors": {"scale": [1, 10]},
    }  # fmt: skip
    cells = grid.cells(settings)
    rows = []
    for number, cell in enumerate(cells[:2]):
        truth = grid.made(cell["world"], settings, cell["seed"])
        world = _Known(truth, settings["rows"], {}, 0, small.folder / f"world-{number}")
        rows += [{**cell, **row} for row in grid.scores(world)]
    table = grid.table(rows)
    best = grid.chosen(table)
    in_use = grid.by_level(table, {row["method"]: row["in_use"] for row in best})
    made = planted(60, (6, 6), owned(2, everyone=4, first=2, private=2), 2, 3, 0.2, 0.1)
    half = Found(made.directions[:5], np.array(["first", "common", "first", "second", "first"]))
    sums = [
        float((rows * np.cos(np.arange(rows.size)).reshape(rows.shape)).sum()) for rows in made.rows
    ]
    recipe = schema.defaults(SCHEMA, "recipe")
    recipes = methods.recipes(recipe, recipe, settings | {"steps": 10, "batch": 8})
    keys = ("features", "k", "rows", "lr", "select", "tied", "exclusive")
    fitted_by = [[name, *(recipes[name][key] for key in keys)] for name in sorted(recipes)]
    return list(flat([fitted_by, best, in_use, score(half, made), sums]))


# --- what is shown ----------------------------------------------------------------------------------


def drawn(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """What a chart says to Vega-Lite: marks, encodings and titles, its rows in place of names of tables.

    Left out are the theme, and the names that Altair numbers. Numbers have six digits.
    """
    whole = chart.to_dict()
    tables = whole.pop("datasets", {})
    left_out = {"config", "$schema", "name", "params", "views", "background"}

    def plain(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"name"} and value["name"] in tables:
            return sorted(map(artifact.canonical, plain(tables[value["name"]])))
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items() if key not in left_out}
        if isinstance(value, list):
            return [plain(part) for part in value]
        return float(f"{value:.6g}") if isinstance(value, float) else value

    return plain(whole)


def _charts() -> dict[str, Callable[[], alt.TopLevelMixin]]:
    """Every chart, of a few rows."""
    sides = ("moe", "dense")
    size = {"width": 200, "height": 120}
    about = {"comparison": "c", "member": "moe.0_dense.0", "recipe": "r", "seed": 0}
    fits = pl.DataFrame([about | {"recipe": recipe, "k": k, "l0": k + 0.5, "fve": 0.8 + k / 100,
                                  "baseline_mean": -0.01, "baseline_pca": 0.4 + k / 100}
                         for recipe, k in (("small", 4), ("large", 12))])  # fmt: skip
    classes = ["A-only", "common", "common", "B-only", "tied", "dead"]
    table = pl.DataFrame({
        "dictionary": ["d"] * 6, "class": classes, "relative_norm": [0.05, 0.5, 0.45, 0.9, 0.5, 0.5],
        "density": [0.1, 0.02, 0.03, 0.004, 0.3, 0.0], "nu_error": [0.1, 0.8, 0.9, 0.2, 0.9, None],
        "nu_reconstruction": [0.2, 1.0, 0.9, 0.1, 1.0, None],
    })  # fmt: skip
    counts = pl.DataFrame({"comparison": ["c"] * 6, "sides": [["moe", "dense"]] * 6,
                           "class": classes, "features": [10, 70, 5, 20, 6, 2],
                           "false_exclusive": [0.1] * 6, "missed_exclusive": [0.2] * 6})  # fmt: skip
    told = pl.DataFrame([{"model": "moe", "layer": layer, "class": name, "corrected": value * (layer + 1)}
                         for layer in (0, 1) for name, value in (("A-only", 4e-4), ("common", 2e-4),
                                                                 ("B-only", 1e-5))])  # fmt: skip
    losses = pl.DataFrame([
        about | {"source": source, "domain": domain, "routing": "live", "kind": kind, "tokens": 9,
                 "cross_entropy": value, "recovered_zero": (8 - value) / 4, "recovered_mean": (6 - value) / 2}
        for source in ("moe.0", "dense.0") for domain in ("all", "code")
        for kind, value in (("clean", 4.0), ("spliced", 4.5), ("mean", 6.0), ("zero", 8.0))
    ])  # fmt: skip
    splits = panel.drawn_rows("d", [
        {"side": side, "share": share, "features": 1, "true": share == 0.3}
        for side in (*KINDS, panel.EITHER) for share in (0.3, 0.2, 0.1)
    ], [{"kind": "moe", "statistic": "share", "interval": [0.25, 0.35]}])  # fmt: skip
    points = np.array([[0, 0], [1, 3], [7, 1], [9, 4.5]])
    apart = ((points[:, None] - points) ** 2).sum(2)
    one = about | {"kinds": KINDS, "unknown": None} | kinds.graded(apart, KINDS)
    found = pl.DataFrame([{"factor": factor, "level": str(level), "part": "score", "method": method,
                           "in_use": True, "precision": 0.5 + level / 20, "recall": right, "f1": right,
                           "planted": level, "attributed": 3}
                          for factor, levels in (("scale", (1, 2)), ("strength", (2, 5)), ("unique", (0, 1)))
                          for level in levels for method, right in (("m", 0.5), ("n", 0.7))])  # fmt: skip
    history = pl.DataFrame([{"model": model, "seed": "0", "tokens": tokens, "cross_entropy": 5 - tokens / 1e3}
                            for model in ("moe", "dense") for tokens in (500, 1000)])  # fmt: skip
    ngrams = pl.DataFrame({"model": ["bigram", "trigram"], "cross_entropy": [4.8, 4.2]})
    return {
        "training": lambda: training_chart(history, ngrams, size),
        "fve": lambda: dictionaries.fve_chart(fits, size),
        "frontier": lambda: dictionaries.frontier_chart(fits, size),
        "norms": lambda: features.relative_norm_chart(table, (0.3, 0.7), sides, size, table),
        "density": lambda: features.density_chart(table, sides, size),
        "scaling": lambda: features.nu_chart(table, sides, size),
        "classes": lambda: classes_chart(counts, size),
        "affinity": lambda: affinity_chart(told, sides, size),
        "domains": lambda: domains_chart(losses, {"moe.0": "moe", "dense.0": "dense"}, size),
        "panel": lambda: panel_chart(splits, size),
        "splits": lambda: splits_chart([one], size),
        "model-map": lambda: map_chart([one], size),
        "planted": lambda: planted_chart(found, size),
    }


def of_plots(small: Small) -> Outcome:
    """Digests of the charts, and of what the page says: its style and script may change freely."""
    outcome: Outcome = []
    for name, chart in _charts().items():
        outcome += [name, artifact.digest(drawn(chart()))]
    warnings = notes.warnings({"moe": 2.5, "dense": 2.1}, 2.5, {"moe"}, 0.1)
    first = page.First(
        "moe",
        [("Models", ["moe"])],
        Finding("A sentence.", "Its error.", "fve"),
        warnings,
        None,
        ["a"],
        ["b"],
    )
    table = page.table(
        [{"model": "moe", "loss": 0.25, "interval": [0.1, 1e-6]}, {"model": "dense"}]
    )
    whole = page.page(first, {"Numbers": table}, {"moediff": "1"})
    said = re.sub(r"<(style|script)\b.*?</\1>", " ", whole, flags=re.S)
    words = " ".join(re.sub(r"<[^>]*>", " ", said).split())
    return [*outcome, "page", artifact.digest(words)]


def of_budget(small: Small) -> Outcome:
    """Amounts, bytes, and the hours that they take at 1,000 a second, a second before them."""
    tokens = {"train": 2 * 10**9, "fit": 10**9, "validation": 10**8}
    corpus = TINY["corpus"] | {"tokens": tokens, "domains": {"made": {"source": "tales"}}}
    corpus["shard_tokens"] = 80_000  # of tiny ones there would be more than their names count
    config = complete(TINY | {"corpus": corpus}, SCHEMA, PRESETS)

    def rate(work: Callable[[], int]) -> float:
        assert work() > 0
        return 1000.0

    def cost(work: Callable[[int], object], few: int) -> clock.Cost:
        work(few)
        return clock.Cost(1.0, 0.001)

    def taken(work: Callable[[], object]) -> float:
        work()
        return 0.5

    with ExitStack() as patched:
        for module in (rates, rates_together):
            patched.enter_context(mock.patch.object(module, "rate", rate))
            patched.enter_context(mock.patch.object(module, "cost", cost))
        patched.enter_context(mock.patch.object(rates, "taken", taken))
        primary = {"moe": "moe", "dense": "dense", "recipe": "default"}
        estimate = table.estimate(config, CPU, primary)
    return list(flat([estimate["stages"], estimate["hours"], estimate["gigabytes"]]))


STAGES: dict[str, Callable[[Small], Outcome]] = {
    "anchor": of_anchor,
    "similarity": of_similarity,
    "moved": of_moved,
    "deletion": of_deletion,
    "recurrence": of_recurrence,
    "panel": of_panel,
    "panel_loss": of_panel_loss,
    "kinds": of_kinds,
    "detectable": of_detectable,
    "trend": of_trend,
    "claims": of_claims,
    "splicing": of_splicing,
    "divergence": of_divergence,
    "experts": of_experts,
    "examples": of_examples,
    "exports": of_exports,
    "planted": of_planted,
    "plots": of_plots,
    "budget": of_budget,
}


def outcomes(small: Small) -> dict[str, Outcome]:
    """The outcome of every stage of STAGES."""
    return {name: stage(small) for name, stage in STAGES.items()}
