"""From the tables of dictionaries to one number a metric of claims.yaml, with its interval and null.

Values are of ordered pairs of models: A first. A dictionary over (first, second) gives both orders,
since to exchange them only exchanges the names of its classes. `claims.METRICS` defines each metric.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from moediff.analysis.detectable import EXCLUSIVE
from moediff.analysis.panel import EITHER, null_rows
from moediff.claims.metrics import METRICS, ORDERS, SHARES
from moediff.config.layout import Source
from moediff.core.resampling import (
    EXCESS,
    between_and_within,
    pair_interval,
    pair_permutation,
    relabelled,
    zero_bound,
)
from moediff.core.terms import LABELLINGS

A, COMMON, B = FREE_CLASSES = "A-only", "common", "B-only"  # classes that claims count
BINS = 20  # of relative norm, for its modes
OPPOSED = -0.9  # a decoder cosine below it is near -1
# Of pairs of two kinds alone, held against a known value.
LEVELS = (
    "fve_pooled", "fve_gain_last_quarter", "moe_only_feature_share", "dense_only_feature_share",
    "common_feature_share", "relative_norm_side_modes", "common_cosine_median",
    "common_cosine_negative_share",
)  # fmt: skip
# Of pairs of all models, held against permuted labels.
CONTRASTS = (
    "log2_moe_only_over_dense_only", "density_moe_only_over_common", "density_common_over_dense_only",
    "domain_share_moe_only_less_dense_only",
)  # fmt: skip
EXCESSES = ("exclusive_variance_excess",)


@dataclass(frozen=True)
class Pair:
    """What one dictionary over two models says."""

    models: tuple[str, str]  # the names of its sources, A first
    recipe: str
    fve: float  # pooled, by the threshold
    fve_early: float  # the same after three quarters of fitting
    features: pl.DataFrame  # class, density, relative_norm, decoder_cosine, top_domain_share
    exclusive: float  # mean over the two of the share of variance that goes with its own features
    rows: int  # validation rows that features were measured on

    def swapped(self) -> Pair:
        """The same with A and B exchanged."""
        names = {A: B, B: A}
        table = self.features.with_columns(
            pl.col("class").replace(names), 1 - pl.col("relative_norm")
        )
        return replace(self, models=self.models[::-1], features=table)

    def firing(self, least: float) -> Pair:
        """The same with features alone that fire on `least` rows or more; what it explains stays."""
        often = pl.col("density") * self.rows >= least
        return replace(self, features=self.features.filter(often))

    @property
    def kinds(self) -> tuple[str, str]:
        """The models that its sources are seeds of."""
        first, second = self.models
        return model_of(first), model_of(second)


def model_of(source: str) -> str:
    """The model of a source's name, which is model.seed, a view, and a hook point."""
    return Source.parse(source).model


def pair_values(pair: Pair) -> dict[str, float]:
    """Every metric of one ordered pair; NaN where a class that it needs is empty."""
    classes = {name: pair.features.filter(pl.col("class") == name) for name in (A, COMMON, B)}
    counts = {name: len(part) for name, part in classes.items()}
    total = sum(counts.values())
    density = {name: _log_median(part["density"]) for name, part in classes.items()}
    share = {name: _mean(part["top_domain_share"]) for name, part in classes.items()}
    cosine = classes[COMMON]["decoder_cosine"].drop_nulls()
    return {
        "fve_pooled": pair.fve,
        "fve_gain_last_quarter": pair.fve - pair.fve_early,
        "moe_only_feature_share": counts[A] / total if total else math.nan,
        "dense_only_feature_share": counts[B] / total if total else math.nan,
        "common_feature_share": counts[COMMON] / total if total else math.nan,
        "relative_norm_side_modes": side_modes(
            pl.concat(classes.values())["relative_norm"].to_numpy()
        ),
        "common_cosine_median": math.nan if cosine.is_empty() else float(cosine.median()),
        "common_cosine_negative_share": _mean((cosine < OPPOSED).cast(pl.Float64)),
        "log2_moe_only_over_dense_only": math.log2((counts[A] + 0.5) / (counts[B] + 0.5)),
        "density_moe_only_over_common": density[A] - density[COMMON],
        "density_common_over_dense_only": density[COMMON] - density[B],
        "domain_share_moe_only_less_dense_only": share[A] - share[B],
        "exclusive_variance_excess": pair.exclusive,
    }


def _mean(values: pl.Series) -> float:
    values = values.drop_nulls()
    return math.nan if values.is_empty() else float(values.mean())


def _log_median(values: pl.Series) -> float:
    return math.nan if values.is_empty() else math.log10(values.median())


def side_modes(relative: np.ndarray) -> float:
    """Height of the lowest of three modes of relative norms [feature], over that of the highest bin.

    An outer mode is the highest of the two outermost of BINS bins; its height is counted from the
    lowest bin between it and the middle. The third is the highest bin between these two lowest ones,
    counted from the higher of them. 0: at most two modes. NaN without features.
    """
    bins, _ = np.histogram(relative, BINS, (0, 1))
    if not bins.any():
        return math.nan
    heights, valleys = [], []
    for side in (bins[: BINS // 2], bins[::-1][: BINS // 2]):
        mode = int(side[:2].argmax())
        valleys.append(mode + int(side[mode:].argmin()))
        heights.append(side[mode] - side[valleys[-1]])
    left, right = valleys[0], BINS - 1 - valleys[1]
    middle = bins[left : right + 1].max() - max(bins[left], bins[right])
    return float(min(*heights, middle) / bins.max())


def pair_findings(pairs: Sequence[Pair], moes: set[str]) -> dict[str, dict[str, Any]]:
    """Estimate, and interval and null where there are models enough, of every metric over pairs.

    `pairs` are dictionaries, several of two models where they have seeds: these are averaged. `moes`
    are the models that are Mixtures of Experts. A metric that some pair has no value of is left out.
    `variance` is that between pairs and, apart, that of dictionary seeds.
    """
    models = sorted(
        {name for pair in pairs for name in pair.models}, key=lambda n: (n not in moes, n)
    )
    labels = np.array([name in moes for name in models])
    if not labels.any() or labels.all():
        return {}
    values: dict[tuple[int, int], list[dict[str, float]]] = {}
    for pair in itertools.chain(pairs, (pair.swapped() for pair in pairs)):
        key = models.index(pair.models[0]), models.index(pair.models[1])
        values.setdefault(key, []).append(pair_values(pair))
    table = {
        metric: {
            key: float(np.mean([seed[metric] for seed in seeds])) for key, seeds in values.items()
        }
        for metric in (*LEVELS, *CONTRASTS, *EXCESSES)
    }
    every = len(values) == len(models) * (len(models) - 1)
    found = {}
    for metric in (*LEVELS, *CONTRASTS):
        mixed = {
            key: v for key, v in table[metric].items() if labels[key[0]] and not labels[key[1]]
        }
        if mixed and np.isfinite(list(mixed.values())).all():
            found[metric] = _level(mixed, labels, metric in SHARES)
            if len(mixed) > 1:
                seeds = [[seed[metric] for seed in values[key]] for key in mixed]
                found[metric]["variance"] = between_and_within(seeds)
            if metric in CONTRASTS and every and np.isfinite(list(table[metric].values())).all():
                found[metric] |= pair_permutation(*_columns(table[metric]), labels)
    for metric in EXCESSES:
        # The same in both orders: each pair stands once.
        once = {key: value for key, value in table[metric].items() if key[0] < key[1]}
        if every and labels.sum() > 2 and (~labels).sum() > 2:
            columns = _columns(once)
            found[metric] = pair_interval(*columns, labels, EXCESS) | pair_permutation(
                *columns, labels, EXCESS
            )
    for metric, steps in ORDERS.items():
        if found.keys() >= set(steps):
            found[metric] = {"steps": {step: found[step] for step in steps}}
    return found


def _columns(values: Mapping[tuple[int, int], float]) -> tuple[list[float], list[int], list[int]]:
    """Values and their first and second models."""
    return list(values.values()), [a for a, _ in values], [b for _, b in values]


def _level(
    mixed: Mapping[tuple[int, int], float], labels: np.ndarray, share: bool = False
) -> dict[str, Any]:
    """Mean over pairs of two kinds, with its interval where there are several models of each.

    A share that is 0 in all pairs is held to be below the bound that so many models give: as many as form
    pairs without a model in common.
    """
    models = min(len({key[side] for key in mixed}) for side in (0, 1))
    if models < 2:
        return {"estimate": float(np.mean(list(mixed.values())))}
    if share and not any(mixed.values()):
        return {"estimate": 0.0, "interval": [0.0, zero_bound(models)]}
    return pair_interval(*_columns(mixed), labels)


def penalty_findings(
    strong: Sequence[Pair], weak: Sequence[Pair], moes: set[str]
) -> dict[str, dict[str, Any]]:
    """What the paper's recipe gains by its ratio of penalties, on the same pairs, and its tied features.

    `strong` and `weak` are the pairs of the two recipes. Nothing where one of them is missing. Of several
    dictionaries over two models the mean FVE, and the lowest of all their cosines.
    """
    tried, against = _by_models(strong, moes), _by_models(weak, moes)
    lowest = {both: _lowest_tied(pairs) for both, pairs in tried.items()}
    measured = {
        "tied_cosine_lowest": {both: value for both, value in lowest.items() if value is not None},
        "fve_gain_shared_penalty": {
            both: _mean_fve(tried[both]) - _mean_fve(against[both]) for both in tried if both in against
        },
    }  # fmt: skip
    found = {}
    for metric, values in measured.items():
        models = sorted(
            {name for both in values for name in both}, key=lambda n: (n not in moes, n)
        )
        labels = np.array([name in moes for name in models])
        mixed = {
            (models.index(a), models.index(b)): float(value)
            for (a, b), value in values.items()
            if a in moes and b not in moes
        }
        if mixed:
            found[metric] = _level(mixed, labels)
    return found


def _by_models(pairs: Sequence[Pair], moes: set[str]) -> dict[tuple[str, str], list[Pair]]:
    """Dictionaries by their two models, the MoE first where only one of them is one."""
    found: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        first, second = pair.models
        turned = second in moes and first not in moes
        found.setdefault((second, first) if turned else (first, second), []).append(pair)
    return found


def _lowest_tied(pairs: Sequence[Pair]) -> float | None:
    """Lowest decoder cosine of tied features; None where there are none."""
    tied = [pair.features.filter(pl.col("class") == "tied")["decoder_cosine"] for pair in pairs]
    return pl.concat(tied).min()


def _mean_fve(pairs: Sequence[Pair]) -> float:
    return float(np.mean([pair.fve for pair in pairs]))


def sensitivity(pairs: Sequence[Pair], firings: float) -> list[dict[str, Any]]:
    """Every metric of pairs for each recipe and two models, a mean over seeds, without verdicts.

    Two seeds of one model are rows too: what a rule finds where there is nothing to find. Each row stands
    twice, over all features and over those that fire on `firings` validation rows or more, whose density
    and class are better known. A metric that some pair has no value of is None.
    """
    found: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        found.setdefault((pair.recipe, *pair.kinds), []).append(pair)
    rows = []
    for (recipe, first, second), same in found.items():
        for least in (0, firings):
            values = [pair_values(pair.firing(least)) for pair in same]
            means = {name: float(np.mean([each[name] for each in values])) for name in values[0]}
            # Only against pairs of one kind is it an excess.
            means["exclusive_variance"] = means.pop("exclusive_variance_excess")
            rows.append(
                {"recipe": recipe, "A": first, "B": second, "pairs": len(same), "firings": least}
                | {name: value if math.isfinite(value) else None for name, value in means.items()}
            )
    return rows


def panel_findings(
    panels: Sequence[Mapping[str, Any]],
    moes: set[str],
    statistic: str,
    sees: bool = True,
    detectable: Sequence[Mapping[str, Any]] = (),
) -> dict[str, dict[str, Any]]:
    """What a panel of MoEs and dense models says against all other labellings.

    `panels` as panel.json holds them, or panel_loss.json; `statistic` says which: variance or loss. Those
    of one kind alone say nothing. Of several dictionaries over the same models, labelling by
    labelling, the mean; of their intervals too, which resample the same text and so say nothing of
    what differs between dictionaries. `features` are those that are the side's own. Unless such a panel
    `sees` a known difference (`sees_a_difference`), absence cannot be told from blindness; and it is told of
    effects alone that were planted and seen, as `detectable` has them (the rows of detectable.json).
    """
    named = [(_kinds(found["kinds"], moes), found) for found in panels]
    # Where a reconstruction recovers nothing of a loss, no share of it is known.
    mixed = [(kinds, found) for kinds, found in named if kinds is not None and found["judged"]]
    if not mixed:
        return {}
    (moe, dense), first = mixed[0]
    same = [panel for _, panel in mixed if panel["kinds"] == first["kinds"]]
    sides = {"moe_only": moe, "dense_only": dense, "either": EITHER}
    metrics = {f"panel_{name}_{statistic}": side for name, side in sides.items()}
    found = {}
    for metric, side in metrics.items():
        if metric not in METRICS:
            continue
        rows = [
            # By the first's order of kinds and names, or labellings would not be the same ones.
            [row for row in null_rows(panel["groups"], first["kinds"]) if row["side"] == side]
            for panel in same
        ]
        shares = [[row["share"] for row in part] for part in rows]
        found[metric] = relabelled(np.mean(shares, axis=0), LABELLINGS)
        intervals = [known for panel in same if (known := _interval_of(panel, side)) is not None]
        if len(intervals) == len(same):
            found[metric]["interval"] = np.mean(intervals, axis=0).tolist()
        found[metric]["features"] = [
            part[0]["features"] for part in rows
        ]  # the true labels are first
        if not sees:
            found[metric]["blind"] = "no panel of a known difference shows that one would be seen"
        found[metric]["would_see"] = _would_see(detectable, statistic)
    return found


def _would_see(detectable: Sequence[Mapping[str, Any]], statistic: str) -> dict[str, Any]:
    """The least effect, absent in the other kind, that the strict rule saw of those planted; or why none is
    known."""
    if statistic != "variance":
        return {"least": None, "unknown": "what was planted are shares of variance, not of loss"}
    rows = [row for row in detectable if row["statistic"] == EXCLUSIVE and row["strength"] is None]
    if not rows:
        return {
            "least": None,
            "unknown": "what would have been seen is not known: no effects were planted "
            "(detectable.comparisons)",
        }
    (row,) = rows
    most = row["largest_tried"]
    return {"least": row["least"], "unknown": f"not even a planted {most:g} was seen"}


def sees_a_difference(
    panels: Sequence[Mapping[str, Any]], whole: Sequence[str], alpha: float
) -> bool:
    """Whether panels of models that learned all text against models that did not find what is there.

    `whole` are the models that learned all. Of one such panel at least, the share of variance of features
    that all of these use and none of the others must stand out of every other labelling (p <= `alpha`).
    """
    return any(
        row["p"] <= alpha
        for found in panels
        for row in found["judged"]
        if row["statistic"] == "share" and row["kind"] in whole
    )


def _interval_of(panel: Mapping[str, Any], side: str) -> list[float] | None:
    """The interval of what is one side's own, where the panel has one."""
    return next(
        (row["interval"] for row in panel["judged"] if row["kind"] == side and row.get("interval")),
        None,
    )


def _kinds(kinds: Mapping[str, Sequence[str]], moes: set[str]) -> tuple[str, str] | None:
    """Names of the kind that is MoE and of the one that is dense; None where there are not both."""
    moe = [kind for kind, names in kinds.items() if moes.issuperset(names)]
    dense = [kind for kind, names in kinds.items() if moes.isdisjoint(names)]
    return (moe[0], dense[0]) if len(moe) == len(dense) == 1 else None
