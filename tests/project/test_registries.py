"""Names that a config may use are those of the code: every choice of the schema equals its registry.

A variant is one function or class, its entry in a registry, its name in config/schema.yaml, and its own
test. A choice that this file does not know fails `test_every_choice_of_the_schema_has_a_registry`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from conftest import RECIPE, SCHEMA
from moediff.activations.caching import ROUTINGS
from moediff.activations.views import VIEWS
from moediff.analysis import controls, panel, splicing
from moediff.config.names import RESERVED
from moediff.config.recipes import STREAM
from moediff.corpus.ngrams import ORDERS
from moediff.corpus.sources import TEXT_SOURCES
from moediff.corpus.token_classes import CLASSES
from moediff.dictionaries.blocks import RANKS, TIES
from moediff.dictionaries.fitting import SCALES
from moediff.dictionaries.normalising import NORMALISERS
from moediff.dictionaries.objectives import LOSSES, PENALTIES
from moediff.dictionaries.selection import KEEPS_K, RULES
from moediff.exchange import crosscoders, hub, saelens
from moediff.experts.pruning import SCORES
from moediff.hooks.points import HOOKS
from moediff.report import tables
from moediff.synthetic import methods
from moediff.training import history
from moediff.training.optimizers import OPTIMIZERS
from moediff.training.trainable import TRAINABLE
from workflow import ROOT

# Place in the schema -> the names that the code knows.
REGISTRIES: dict[str, Any] = {
    "activations.hook.items": HOOKS,
    "detectable.classes.items": CLASSES,
    "activations.routing": ROUTINGS,
    "recipe.select": RULES,
    "recipe.normalise": NORMALISERS,
    "recipe.rank": RANKS,
    "recipe.tie": TIES,
    "recipe.scale": SCALES,
    "recipe.loss": LOSSES,
    "training.optimizer": OPTIMIZERS,
    "model.train.training.optimizer": OPTIMIZERS,
    "training.trainable": TRAINABLE,
    "model.train.training.trainable": TRAINABLE,
    "prune.scores.items": SCORES,
    "comparison.each.control": VIEWS,
    "comparison.all.control": VIEWS,
}
DTYPES = (  # names of torch's own
    "training.precision",
    "model.train.training.precision",
    "activations.dtype",
    "model.load.dtype",
)
# Choices between two ways that one `if` decides, and names of other libraries.
PLAIN = {
    "device": ["auto", "cpu", "cuda"],
    "recipe.screen": ["auto", True, False],
    "model.load.tokenizer": ["corpus", "own"],
    "model.load.device_map": [None, "auto", "balanced", "balanced_low_0", "sequential"],
    "planted.base.basis": ["independent", "shared"],
    "planted.factors.basis.items": ["independent", "shared"],
}


def choices(schema: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, list]]:
    """Every list of allowed values and where it stands; a branch is named by its first required key."""
    if "enum" in schema:
        yield ".".join(place), schema["enum"]
    for key, part in schema.get("properties", {}).items():
        yield from choices(part, (*place, key))
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(key), dict):
            yield from choices(schema[key], (*place, key))
    for branch in schema.get("oneOf", ()):
        yield from choices(branch, (*place, branch["required"][0]))
    for name, definition in schema.get("$defs", {}).items():
        yield from choices(definition, (name,))


CHOICES = dict(choices(SCHEMA))
SELECT = SCHEMA["$defs"]["recipe"]["properties"]["select"]


def test_every_choice_of_the_schema_has_a_registry() -> None:
    assert set(CHOICES) == {*REGISTRIES, *DTYPES, *PLAIN}


@pytest.mark.parametrize("place", REGISTRIES)
def test_a_choice_of_the_schema_equals_its_registry(place: str) -> None:
    assert CHOICES[place] == list(REGISTRIES[place])


@pytest.mark.parametrize("place", DTYPES)
def test_a_dtype_of_the_schema_is_one_of_torch(place: str) -> None:
    names = [name for name in CHOICES[place] if name != "auto"]
    assert names
    for name in names:
        assert isinstance(getattr(torch, name), torch.dtype)


@pytest.mark.parametrize("place", PLAIN)
def test_a_plain_choice_is_as_listed(place: str) -> None:
    assert CHOICES[place] == PLAIN[place]


def test_hook_pattern_of_the_schema_is_the_hooks() -> None:
    pattern = SCHEMA["properties"]["activations"]["properties"]["hook"]["pattern"]
    assert pattern == rf"^({'|'.join(HOOKS)})\Z"


def test_text_sources_of_the_schema_equal_their_registry() -> None:
    branches = SCHEMA["$defs"]["domain"]["oneOf"]
    assert [part["properties"]["source"]["const"] for part in branches] == list(TEXT_SOURCES)


def test_penalties_of_the_schema_equal_their_registry() -> None:
    penalties = SCHEMA["$defs"]["recipe"]["properties"]["penalties"]["properties"]
    assert list(penalties) == list(PENALTIES)


def test_keys_that_share_a_stream_of_rows_are_keys_of_a_recipe() -> None:
    assert set(STREAM) <= set(RECIPE)


# --- selection rules ---


def test_what_the_schema_says_of_rules_is_what_they_are() -> None:
    recipe = RECIPE | {"bandwidth": 0.1}
    learning = [
        name
        for name, rule in RULES.items()
        if list(rule(recipe | {"select": name}, 4).parameters())
    ]
    assert SELECT["keeps_k"] == list(KEEPS_K)
    assert SELECT["learns_thresholds"] == learning


@pytest.mark.parametrize("name", RULES)
def test_a_rule_without_k_says_its_thresholds(name: str) -> None:
    rule = RULES[name](RECIPE | {"select": name}, 4)
    assert (rule.thresholds() is None) == (name in KEEPS_K)


# --- what other code calls the same ---


def test_foreign_names_stand_for_names_of_ours() -> None:
    assert {one.select for one in saelens.ARCHITECTURES.values()} <= set(RULES)
    assert set(crosscoders.NORMALIZATIONS) <= set(RANKS)


def test_layouts_that_rules_export_are_those_that_are_read() -> None:
    text = (ROOT / "rules/exchange.smk").read_text(encoding="utf-8")
    exports = ast.literal_eval(re.search(r"^EXPORTS = (\{.*?^\})", text, re.M | re.S)[1])
    weights = {names[0]: set(names[1:]) for names in exports.values()}
    assert set(weights) == set(hub.READERS)
    assert weights[hub.WEIGHTS] == {hub.CONFIG, hub.CARD}
    assert weights[saelens.WEIGHTS] == {saelens.CONFIG}
    assert weights[crosscoders.WEIGHTS] == {crosscoders.CONFIG}


def test_controls_are_the_views_and_other_seeds() -> None:
    views = {name for name in VIEWS if name}
    assert set(controls.CONTROLS) == views | {controls.OTHER_SEED}
    text = (ROOT / "rules/common.smk").read_text(encoding="utf-8")
    assert set(re.search(r"AS_IT_IS = .*?\(\?:([a-z|]+)\)", text)[1].split("|")) == views


def test_methods_on_planted_worlds_use_recipes_that_are_made() -> None:
    settings = {"active": 4, "features": 64, "steps": 10, "batch": 8, "lr": 0.02, "width": 32}
    made = methods.recipes(RECIPE, RECIPE, settings)
    assert {method.recipe for method in methods.METHODS.values()} == set(made)


def test_words_that_stages_write_beside_users_names_are_no_names_of_users() -> None:
    losses = tables.by_model({"moe": {"code": 1.0}})
    own = panel.own_domains(np.eye(2, dtype=bool), np.ones(2), [None, None], 1)
    beside_domains = {history.ALL, splicing.ALL, *own[0]["features"], *losses[0]} - {"code"}
    assert beside_domains == RESERVED["domain"].keys()
    groups = panel.group(np.eye(2, dtype=bool), 1)
    counted = panel.counts(groups, {"moe": ["moe.0"], "dense": ["dense.0"]})
    assert counted.keys() - {"moe", "dense"} | ORDERS.keys() == RESERVED["model"].keys()
    assert " " in panel.EITHER  # no name has one
