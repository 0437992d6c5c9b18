"""What analyses and experts make of the small world: their golden outcomes."""

from __future__ import annotations

import numpy as np
import polars as pl
from tokenizers import Tokenizer, models

from conftest import cached
from golden_world import CPU, FIVE, KINDS, NAMES, Outcome, Small, flat, means
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
from moediff.analysis.reruns import Pass, Rerun, Text
from moediff.core import artifact
from moediff.core.bootstrap import Units
from moediff.experts import (
    ablation,
    affinity,
    attribution,
    lens,
    masking,
    pruning,
    routing_record,
)
from moediff.hooks.points import Point
from moediff.synthetic.planted import stored
from routed import made_dictionary
from spliced import identity, text
from usages import explained


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


# --- MoEs by themselves -----------------------------------------------------------------------------


def runs_of(small: Small) -> list[Pass]:
    return [Pass(small.models["moe"], Text(small.tokens), slice(0, 6), False)]


def of_routing(small: Small) -> Outcome:
    shards = [shard.path for shard in small.rows.sources[0]]
    told = routing_record.measured(routing_record.read(shards, 4), {}, 20)
    return [
        *flat(told.record["rows"]),
        *flat(told.record["information"]),
        *means(told.pairs, "together", "expected"),
        *means(told.shares, "share", "gate"),
    ]


def of_lens(small: Small) -> Outcome:
    table = lens.expert_lens(runs_of(small), small.tokens.domains, 8)
    names = ("cosine", "cosine_layer", "kl_layer", "kl_model", "agrees_layer", "agrees_model")
    return [*means(table, *names), *flat(table["term"].unique().sort().to_list())]


def of_fewer_experts(small: Small) -> Outcome:
    table = ablation.fewer_experts(runs_of(small), [1], small.tokens.domains)
    return means(table, "k", "cross_entropy", "cost", "ratio", "cost_by_document")


def of_prune(small: Small) -> Outcome:
    usage = pruning.measured(runs_of(small), True, small.tokens.domains)
    choice = pruning.Choice(["reap", "random"], [0.75, 0.5])
    table = pruning.prune_costs(usage, choice, runs_of(small), small.tokens.domains)
    sums = pruning.usage_table(usage)
    return [*means(table, "kept", "parameters", "cost"), *means(sums, "gates", "weighed", "norms")]


# --- claims -----------------------------------------------------------------------------------------
