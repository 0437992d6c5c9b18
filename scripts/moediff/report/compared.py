"""What a study compared: the title of its page, and the facts below it.

`study` is what `of_study` of rules/inputs/report.smk says: `models`, each with its `kind`, `from`, number
of `seeds` and `tokenizer`, `kept` where it was kept on the way of a run, and `domains` where it learned
from these alone; `points`, the hook points; `recipes`, each with `features`, `k` and `normalise`;
`comparisons`, each with `sides`, `together`, `control` and `recipes`; `pair`, the folder of the
dictionary that is drawn; `left_out`, the folders of dictionaries that are not on the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moediff.config.layout import side
from moediff.config.recipes import NONE
from moediff.report.labels import listed

Record = Mapping[str, Any]
MILLION = 1e6
OF_LIST = 6  # models that stand in a line each


def models_of(study: Record) -> list[str]:
    """Models that comparisons name, in their order, those of controls last."""
    first = [one for one in study["comparisons"].values() if not one["control"]]
    then = [one for one in study["comparisons"].values() if one["control"]]
    return list(dict.fromkeys(side(name)[0] for one in first + then for name in one["sides"]))


def title(study: Record) -> str:
    """The heading of the page: the models, by name."""
    models = models_of(study)
    if len(models) == 1:
        return f"What {models[0]} represents"
    return f"What {listed(models)} represent, compared"


def facts(
    study: Record, parameters: Mapping[str, Record], metrics: Sequence[Record]
) -> list[tuple[str, list[str]]]:
    """What was compared, as (what, lines): models with kind and size, where, rows, dictionaries.

    `parameters` are the counts of each language model, `metrics` the records of all dictionaries.
    """
    models = models_of(study)
    told = [_model(name, study["models"][name], parameters.get(name)) for name in models]
    if len(told) > OF_LIST:
        told = [*told[:OF_LIST], f"and {len(told) - OF_LIST} more: {', '.join(models[OF_LIST:])}"]
    found = [("Models", told)]
    if study["points"]:
        found.append(
            ("Activations", [f"{listed(list(study['points']), 6)} (hook point and layer)"])
        )
    rows = _rows(metrics)
    if rows:
        found.append(("Rows", [rows]))
    found.append(("Dictionaries", [_dictionaries(study, metrics)]))
    return found


def _model(name: str, about: Record, counts: Record | None) -> str:
    """A model in one line."""
    parts = []
    if counts:
        dense = counts["total"] == counts["active"]
        size = f"{counts['total'] / MILLION:,.1f}M parameters"
        active = "" if dense else f", {counts['active'] / MILLION:,.1f}M of them used by a token"
        parts.append(f"{'dense model' if dense else 'Mixture of Experts'}, {size}{active}")
    match about["kind"]:
        case "trained" | "kept":
            seeds = "" if about["seeds"] == 1 else f" with {about['seeds']} seeds"
            at = about.get("kept")
            run = (
                f"{at['model']} after step {at['step']:,} of its training" if at else "trained here"
            )
            domains = about.get("domains")
            of = f" on {' and '.join(domains)} alone" if domains else ""
            parts.append(f"{run}{seeds}{of}")
        case "loaded":
            parts.append(f"loaded from {about['from']}")
        case _:
            parts.append("activations that other code wrote")
    return f"{name}: {', '.join(parts)}"


def _rows(metrics: Sequence[Record]) -> str:
    """How many rows dictionaries were fitted and judged on: of a model, or the range over models."""
    counts: dict[str, set[int]] = {}
    for record in metrics:
        for about in record["rows"]:
            counts.setdefault(about["split"], set()).add(about["rows"])
    told = []
    for split, found in counts.items():
        low, high = min(found), max(found)
        told.append(f"{low:,}" + (f" to {high:,}" if high > low else "") + f" {split}")
    return ", ".join(told) + (" rows of each model" if told else "")


def _recipe(name: str, recipe: Record) -> str:
    """What a recipe is called, its sizes, and how it shows rows where they are not taken as they are."""
    way = recipe["normalise"]
    shown = "" if way == NONE else f", normalise {way}"
    return f"{name} ({recipe['features']:,} features, k {recipe['k']}{shown})"


def _dictionaries(study: Record, metrics: Sequence[Record]) -> str:
    """How many dictionaries there are, over what, and by which recipes."""
    named = []
    for name, one in study["comparisons"].items():
        how = ", all seeds in one" if one["together"] else ""
        control = f", control: {one['control']}" if one["control"] else ""
        named.append(f"{name} ({' + '.join(one['sides'])}{how}{control})")
    used = dict.fromkeys(
        recipe for one in study["comparisons"].values() for recipe in one["recipes"]
    )
    recipes = [_recipe(name, study["recipes"][name]) for name in used]
    word = "recipe" if len(recipes) == 1 else "recipes"
    return f"{len(metrics)}: {listed(named, 6)}; {word} {listed(recipes, 4)}"
