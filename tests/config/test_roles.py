"""Which dictionaries play which part: by a config small enough to name them all."""

from __future__ import annotations

import pytest

from conftest import PRESETS, SCHEMA
from moediff.config import fits, roles
from moediff.config.complete import complete
from moediff.config.kinds import EXTERNAL, KINDS, LOADED, TRAINED, has_experts, kind_of, models_of
from moediff.config.layout import Fit, Member

PRIMARY = {"moe": "moe", "dense": "dense", "recipe": "default"}
CONFIG = {
    "corpus": {
        "domains": {"made": {"source": "tales"}, "other": {"source": "stdlib"}},
        "tokens": {"train": 16_000, "fit": 12_000, "validation": 4_000},
    },
    "models": {
        "dense": {"train": {"d_model": 32, "layers": 2, "heads": 2, "ffn": 64}},
        "moe": {"like": "dense", "train": {"ffn": 32, "experts": 4, "top_k": 2}},
        "narrow": {"like": "dense", "sees": {"domains": ["made"]}},
    },
    "training": {"seeds": [0, 1, 2]},
    "recipes": {"default": {"k": 4, "features": 64}, "wide": {"k": 4, "features": 128}},
    "comparisons": {
        "sae": {"each": ["moe"], "recipes": ["default", "wide"]},
        "pair": {"each": ["moe", "dense"], "recipes": ["wide", "default"]},
        "null": {"each": ["dense", "dense"], "recipes": ["default"]},
        "turned": {"each": ["moe"], "seeds": [0], "control": "rotated", "recipes": ["default"]},
        "two": {"all": ["moe", "dense"], "seeds": [0, 1], "recipes": ["default"]},
        "panel": {"all": ["moe", "dense"], "recipes": ["default", "wide"]},
        "known": {"all": ["dense", "narrow"], "recipes": ["default"]},
    },
}


@pytest.fixture
def config() -> dict:
    return complete(CONFIG, SCHEMA, PRESETS)


def names(found: list[Fit]) -> list[str]:
    return [f"{fit.member.comparison}/{fit.member.name}/{fit.recipe}" for fit in found]


def test_pairs_are_over_two_models_as_they_are(config: dict) -> None:
    found = roles.pairs(fits(config))
    assert {fit.member.comparison for fit in found} == {"pair", "null"}
    assert len(found) == 9 * 2 + 3


def test_panels_have_two_kinds_of_several_models(config: dict) -> None:
    found = roles.panels(config, fits(config))
    assert [(fit.member.comparison, fit.recipe) for fit in found] == [
        ("two", "default"), ("panel", "default"), ("panel", "wide"), ("known", "default"),
    ]  # fmt: skip


def test_primary_panels_are_the_largest_of_the_primary_recipe_and_models(config: dict) -> None:
    (panel,) = roles.primary_panels(config, fits(config), PRIMARY)
    assert (panel.member.comparison, panel.recipe, len(panel.member.sources)) == (
        "panel",
        "default",
        6,
    )
    assert roles.primary_panels(config, fits(config), PRIMARY | {"moe": "narrow"}) == [
        fit for fit in fits(config) if fit.member.comparison == "known"
    ]
    assert roles.primary_panels(config, fits(config), PRIMARY | {"recipe": "none"}) == []


def test_known_panels_have_one_kind_that_learned_all_text(config: dict) -> None:
    assert roles.whole_learners(config) == ["dense", "moe"]
    (panel,) = roles.known_panels(config, fits(config), PRIMARY)
    assert panel.member.comparison == "known"


def test_the_primary_analysis_names_no_model_of_the_other_kind(config: dict) -> None:
    found = roles.primary_analysis(config, PRIMARY)
    assert (found["moe"], found["dense"], found["k"], found["features"]) == ("moe", "dense", 4, 64)
    swapped = roles.primary_analysis(config, {"moe": "dense", "dense": "moe", "recipe": "none"})
    assert (swapped["moe"], swapped["dense"], swapped["recipe"], swapped["k"]) == (None,) * 4
    assert roles.primary_analysis(config, PRIMARY | {"moe": "olmoe"})["moe"] is None


def test_the_drawn_pair_is_the_primary_one_or_the_first(config: dict) -> None:
    every = fits(config)
    assert names([roles.drawn_pair(every, PRIMARY)]) == ["pair/moe.0_dense.0/default"]
    assert names([roles.drawn_pair(every, PRIMARY | {"recipe": "none"})]) == [
        "pair/moe.0_dense.0/wide"
    ]
    assert (
        roles.drawn_pair([fit for fit in every if fit.member.comparison != "pair"], PRIMARY) is None
    )


def test_nulls_of_a_pair_are_two_seeds_of_one_of_its_models(config: dict) -> None:
    every = fits(config)
    pair = roles.drawn_pair(every, PRIMARY)
    assert names(roles.nulls_of(pair, every)) == [
        "null/dense.0_dense.1/default", "null/dense.0_dense.2/default",
        "null/dense.1_dense.2/default",
    ]  # fmt: skip
    assert names(roles.first_null_of_each(pair, every)) == ["null/dense.0_dense.1/default"]


def test_saes_of_a_dictionary_are_of_its_models_and_recipe(config: dict) -> None:
    every = fits(config)
    pair = roles.drawn_pair(every, PRIMARY)
    assert names(roles.saes_of(config, every, pair)) == [
        "sae/moe.0/default", "sae/moe.1/default", "sae/moe.2/default",
    ]  # fmt: skip


def test_shown_are_the_pair_and_the_first_of_every_comparison_and_recipe(config: dict) -> None:
    every = fits(config)
    pair = roles.drawn_pair(every, PRIMARY)
    assert set(roles.shown(every, pair, len(every))) == set(every)
    firsts = {(fit.member.comparison, fit.recipe) for fit in every}
    first = roles.shown(every, pair, len(firsts))
    assert first[0] == pair
    assert {(fit.member.comparison, fit.recipe) for fit in first} == firsts
    assert names(roles.shown(every, None, 2)) == ["sae/moe.0/default", "sae/moe.0/wide"]
    assert len(roles.shown(every * 9, pair)) == roles.SHOWN


def test_text_is_known_where_models_read_it_and_rows_are_no_control_s(config: dict) -> None:
    every = fits(config)
    config["models"]["theirs"] = {"rows": {}}
    known = {fit.member.comparison: roles.has_text(config, fit) for fit in every}
    assert known == dict.fromkeys(known, True) | {"turned": False}
    config["models"]["dense"] = {"rows": {}}
    assert not roles.has_text(config, roles.drawn_pair(every, PRIMARY))


def test_experts_are_drawn_of_every_source_that_has_them_or_may(config: dict) -> None:
    pair = roles.drawn_pair(fits(config), PRIMARY)
    moe, dense = pair.member.sources
    assert roles.routed_sources(config, pair) == [moe]
    config["models"]["dense"] = {"load": "a/b"}  # it is not known before it is there
    assert roles.routed_sources(config, pair) == [moe, dense]
    config["models"]["moe"] = {"rows": {}}
    assert roles.routed_sources(config, pair) == [dense]
    config["activations"]["routing"] = "none"
    assert roles.routed_sources(config, pair) == []
    assert roles.routed_sources(config, None) == []


def test_a_divergence_is_of_two_language_models_that_read_the_same_tokens(config: dict) -> None:
    config["activations"] |= {"layer": [0, 1]}
    config["models"] |= {
        "base": {"load": "a/b", "tokenizer": "corpus", "begin_of_text": False},
        "tuned": {"load": "a/c", "tokenizer": "corpus", "begin_of_text": False},
        "own": {"load": "a/d", "tokenizer": "own", "begin_of_text": False},
        "begun": {"load": "a/e", "tokenizer": "own", "begin_of_text": True},
        "theirs": {"rows": {}},
    }

    def why(name: str) -> str:
        return roles.why_no_divergence(config, Member.parse("c", name))

    for fine in (
        "base.0_tuned.0",
        "base.0_moe.0",
        "moe.0_moe.1",
        "own.0_own2.0",
        "base.0_tuned.0@mlp_out.1",
    ):
        config["models"]["own2"] = config["models"]["own"] | {"load": "a/f"}
        assert why(fine) == "", fine
    assert why("base.0") == why("base.0_tuned.0_moe.0") == "only two sources have a divergence"
    assert why("base.0_theirs.0").startswith("theirs is external activations")
    assert why("moe.0_moe.0.rotated").startswith("moe.0.rotated is a control")
    assert why("base.0@mlp_out.0_base.0@mlp_out.1").startswith("both sources are base, seed 0")
    for differ in ("base.0_own.0", "own.0_moe.0", "own.0_begun.0"):
        first, second = (source.model for source in Member.parse("c", differ).sources)
        assert why(differ).startswith(f"{first} and {second} read the text by different tokenizers")


def test_the_page_tells_the_divergence_of_two_loaded_models_alone(config: dict) -> None:
    pair = roles.drawn_pair(fits(config), PRIMARY)
    assert not roles.tells_divergence(config, None)
    assert not roles.tells_divergence(config, pair)  # both are trained here
    config["models"]["moe"] = {"load": "a/b", "tokenizer": "corpus"}
    assert not roles.tells_divergence(config, pair)
    config["models"]["dense"] = {"load": "a/c", "tokenizer": "corpus"}
    assert roles.tells_divergence(config, pair)
    config["models"]["dense"]["tokenizer"] = "own"
    assert not roles.tells_divergence(config, pair)
    config["models"]["moe"]["tokenizer"] = "own"  # of one tokenizer or not: the job will know
    assert roles.tells_divergence(config, pair)
    config["models"] |= {name: {"rows": {}} for name in ("moe", "dense")}
    assert not roles.tells_divergence(config, pair)


def test_rows_are_held_against_each_other_where_models_were_not_trained_apart(config: dict) -> None:
    pair = roles.drawn_pair(fits(config), PRIMARY)
    assert not roles.share_a_basis(config, None)
    assert not roles.share_a_basis(config, pair)  # both from scratch
    config["models"]["moe"]["init"] = {"checkpoint": "dense"}
    assert roles.share_a_basis(config, pair)
    config["models"]["dense"]["init"] = {"checkpoint": "narrow"}
    assert roles.share_a_basis(config, pair)
    config["models"]["moe"]["init"] = {"checkpoint": "narrow"}
    assert roles.share_a_basis(config, pair)
    config["models"]["moe"] = {"load": "a/b"}
    assert not roles.share_a_basis(config, pair)
    config["models"]["dense"] = {"load": "a/c"}
    assert roles.share_a_basis(config, pair)


def test_a_kind_is_told_by_the_key_of_its_settings(config: dict) -> None:
    for key, kind in KINDS.items():
        assert kind_of({key: {}, "tokenizer": "own"}) is kind
    assert models_of(config, TRAINED) == ["dense", "moe", "narrow"]
    assert models_of(config, LOADED, EXTERNAL) == []
    assert [has_experts(config, name) for name in config["models"]] == [False, True, False]
    config["models"] |= {"hub": {"load": "a/b"}, "theirs": {"rows": {}}}
    assert (has_experts(config, "hub"), has_experts(config, "theirs")) == (None, False)


def test_no_other_file_asks_for_the_key_of_a_kind() -> None:
    import re

    from workflow import ROOT

    asks = re.compile(r'"(?:train|load|rows)" (?:not )?in\b|keys\(\) & \{"(?:train|load|rows)"')
    for file in [*(ROOT / "scripts/moediff").rglob("*.py"), *(ROOT / "rules").rglob("*.smk")]:
        for line in file.read_text(encoding="utf-8").splitlines():
            # The tokenizer's settings have keys of the same names.
            assert not asks.search(line) or "tokenizer" in line, f"{file.name}: {line}"
