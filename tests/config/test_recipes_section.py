"""The section `recipes`: counts that fit, ties that the models' widths allow."""

from pathlib import Path

import pytest

from configured import completed, refused
from moediff.config.recipes import deciding
from moediff.core.errors import ConfigError


def test_a_tie_by_direction_needs_equal_widths_only_where_something_is_tied() -> None:
    slim = "models: {slim: {like: dense, train: {d_model: 64}}}\n"
    pair = "comparisons: {pair: {each: [dense, slim]}}\n"
    assert completed(slim + pair + "recipes: {default: {tie: norm}}")
    assert completed(slim + pair + "recipes: {default: {tie: direction, tied: 0}}")
    assert completed(slim + "recipes: {default: {tie: direction}}")  # no member holds both


def test_a_tie_by_direction_reads_the_width_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_layer": 5, "n_embd": 96}', encoding="utf-8")
    change = {
        "corpus": {"tokenizer!": {"load": str(tmp_path)}},
        "models": {"mine": {"load": str(tmp_path)}},
        "recipes": {"default": {"tie": "direction"}},
        "comparisons": {"pair": {"each": ["dense", "mine"]}},
    }
    with pytest.raises(ConfigError, match="dense 128, mine 96"):
        completed(change)


def test_all_keys_but_seeds_and_preset_decide_a_dictionary() -> None:
    recipe = completed()["recipes"]["default"]
    assert recipe["normalise"] == "none"
    assert set(recipe) - set(deciding(recipe)) == {"seeds", "preset"}
    assert deciding(recipe | {"normalise": "rms"}) == deciding(recipe) | {"normalise": "rms"}


BAD = {
    "normalise": (
        "recipes: {default: {normalise: layer}}",
        ["recipes.default.normalise", "whiten"],
    ),
    "recipe": ("recipes: {default: {topk: 5}}", ["recipes.default", "'topk'", "features"]),
    "recipe rate as text": ("recipes: {default: {lr: 1e-3}}", ["recipes.default.lr", "1.0e-3"]),
    "k": ("recipes: {default: {k: 3000}}", ["recipes.default.k", "3000", "2048"]),
    "tied count": ("recipes: {default: {tied: 3000}}", ["recipes.default.tied", "3000", "2048"]),
    "tied share": ("recipes: {default: {tied: 1.5}}", ["recipes.default.tied", "1.5", "2048"]),
    "tied and exclusive": (
        "recipes: {default: {tied: 0.5, exclusive: 0.3}}",
        ["comparisons.moe-dense", "'default'", "1024 tied", "1228 exclusive"],
    ),
    "threshold": ("recipes: {default: {threshold_rows: 200000}}", ["threshold_rows", "240000"]),
    "schedule": ("recipes: {default: {warmup: 0.5, decay: 0.6}}", ["recipes.default", "decay"]),
    "direction": (
        """
        models: {slim: {like: dense, train: {d_model: 64}}}
        recipes: {default: {tie: direction}}
        comparisons: {pair: {each: [dense, slim]}}
        """,
        ["comparisons.pair", "'default'", "dense 128", "slim 64", "tie: norm"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_recipe_is_refused_in_one_line_that_names_the_place(case: str) -> None:
    refused(*BAD[case])
