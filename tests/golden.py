"""What the later stages make of small worlds, for the golden values of tests/project/test_versions.py.

One function a stage. Inputs are made by hand or read off tiny models by random dictionaries, so that no fit
decides an outcome. An outcome is a list of texts and numbers: none is a rank
among ties or a count at a threshold that another machine's rounding could pass.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import numpy as np
import polars as pl
import torch

from conftest import SCHEMA
from exchanged import made as weighted
from golden_analysis import (
    of_anchor,
    of_deletion,
    of_detectable,
    of_divergence,
    of_examples,
    of_experts,
    of_fewer_experts,
    of_kinds,
    of_lens,
    of_moved,
    of_panel,
    of_panel_loss,
    of_prune,
    of_recurrence,
    of_routing,
    of_similarity,
    of_splicing,
    of_trend,
)
from golden_report import of_budget, of_plots
from golden_world import Outcome, Small, flat
from moediff.analysis import (
    panel,
)
from moediff.claims import findings, judging, reading
from moediff.config import schema
from moediff.core import artifact
from moediff.core.resampling import PERMUTED
from moediff.core.terms import KNOWN, LABELLINGS
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.exchange import crosscoders, hub, saelens
from moediff.synthetic import grid, methods
from moediff.synthetic.planted import owned, planted
from moediff.synthetic.scoring import Found, score
from moediff.synthetic.world import World

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
    "routing": of_routing,
    "lens": of_lens,
    "fewer_experts": of_fewer_experts,
    "prune": of_prune,
    "examples": of_examples,
    "exports": of_exports,
    "planted": of_planted,
    "plots": of_plots,
    "budget": of_budget,
}


def outcomes(small: Small) -> dict[str, Outcome]:
    """The outcome of every stage of STAGES."""
    return {name: stage(small) for name, stage in STAGES.items()}
