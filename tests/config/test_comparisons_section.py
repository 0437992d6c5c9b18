"""The section `comparisons`: the members and fits of each, controls, panels."""

import json

import pytest

from configured import completed, refused
from moediff.config import activations, comparisons


def names(change: str, comparison: str = "pair") -> list[str]:
    return [member.name for member in comparisons.members(completed(change), comparison)]


@pytest.mark.parametrize(
    ("seeds", "comparison", "expected"),
    [
        ([0], "each: [moe, dense]", ["moe.0_dense.0"]),
        ([3], "each: [dense]", ["dense.3"]),
        (
            [0, 1],
            "each: [moe, dense]",
            ["moe.0_dense.0", "moe.0_dense.1", "moe.1_dense.0", "moe.1_dense.1"],
        ),
        ([0, 1], "each: [moe]", ["moe.0", "moe.1"]),
        ([0, 1], "each: [dense, dense]", ["dense.0_dense.1"]),
        (
            [5, 1, 2],
            "each: [dense, dense]",
            ["dense.5_dense.1", "dense.5_dense.2", "dense.1_dense.2"],
        ),
        ([0, 1, 2], "each: [dense, dense, dense]", ["dense.0_dense.1_dense.2"]),
        ([0, 1], "all: [moe, dense]", ["moe.0_moe.1_dense.0_dense.1"]),
        ([0, 1], "all: [dense]", ["dense.0_dense.1"]),
    ],
)
def test_members(seeds: list[int], comparison: str, expected: list[str]) -> None:
    change = f"{{training: {{seeds: {seeds}}}, comparisons: {{pair: {{{comparison}}}}}}}"
    assert names(change) == expected


def test_points_are_hooks_times_layers_and_a_model_without_one_stands_for_each() -> None:
    config = completed(
        """
        activations: {hook: [resid_post, mlp_out], layer: [1, 0.8]}
        training: {seeds: [0, 1]}
        comparisons!:
          sae: {each: [moe]}
          layers: {each: [moe@resid_post.1, moe@resid_post.0.8]}
          panel: {all: [moe, dense]}
        """
    )
    points = ["resid_post.1", "mlp_out.1", "resid_post.0.8", "mlp_out.0.8"]
    assert list(activations.points(config)) == points
    named = [member.name for member in comparisons.members(config, "sae")]
    assert named == [f"moe.{seed}@{point}" for point in points for seed in (0, 1)]
    # One model at two points is of one seed.
    assert [member.name for member in comparisons.members(config, "layers")] == [
        f"moe.{seed}@resid_post.1_moe.{seed}@resid_post.0.8" for seed in (0, 1)
    ]
    panel = comparisons.members(config, "panel")
    assert [len(member.sources) for member in panel] == [4] * 4
    assert {source.point for source in panel[2].sources} == {"resid_post.0.8"}


def test_fits_are_members_times_recipes_times_their_seeds() -> None:
    config = completed(
        """
        training: {seeds: [0, 1]}
        recipes: {wide: {features: 4096, seeds: [7, 8]}}
        comparisons!: {null: {each: [dense, dense], recipes: [wide, default]}, one: {all: [moe]}}
        """.replace("null:", "'null':")
    )
    assert [(fit.member.name, fit.recipe, fit.seed) for fit in comparisons.fits(config)] == [
        ("dense.0_dense.1", "wide", 7),
        ("dense.0_dense.1", "wide", 8),
        ("dense.0_dense.1", "default", 0),
        ("moe.0_moe.1", "default", 0),
    ]


def test_a_control_shows_rows_otherwise_and_is_another_source() -> None:
    config = completed(
        """
        training: {seeds: [0, 1]}
        comparisons!:
          twin: {each: [moe], seeds: [1], control: rotated}
          permuted: {each: [moe, dense], seeds: [0], control: permuted}
          plain: {each: [moe, dense]}
        """
    )
    named = {
        name: [m.name for m in comparisons.members(config, name)] for name in config["comparisons"]
    }
    assert named == {
        "twin": ["moe.1_moe.1.rotated"],
        "permuted": ["moe.0_dense.0.permuted"],
        "plain": ["moe.0_dense.0", "moe.0_dense.1", "moe.1_dense.0", "moe.1_dense.1"],
    }
    (member,) = comparisons.members(config, "twin")
    assert [source.view for source in member.sources] == [None, "rotated"]


def test_a_panel_has_several_models_of_two_kinds_as_they_are() -> None:
    config = completed(
        """
        training: {seeds: [0, 1]}
        comparisons!:
          panel: {all: [moe, dense]}
          few: {all: [moe, dense], seeds: [0]}
          one: {all: [moe]}
          pairs: {each: [moe, dense]}
        """
    )
    panels = {
        name: [comparisons.is_panel(config, member) for member in comparisons.members(config, name)]
        for name in config["comparisons"]
    }
    assert panels == {
        "panel": [True], "few": [False], "one": [False], "pairs": [False] * 4,
    }  # fmt: skip


def test_another_point_of_a_model_is_no_other_model_of_a_panel() -> None:
    points = [
        f"{model}@resid_post.{layer}" for model in ("moe", "dense") for layer in ("0.25", "0.75")
    ]
    config = completed(
        f"""
        training: {{seeds: [0]}}
        activations: {{layer: [0.25, 0.75]}}
        comparisons!: {{layers: {{all: {json.dumps(points)}}}}}
        """
    )
    (member,) = comparisons.members(config, "layers")
    assert len(member.sources) == 4
    assert not comparisons.is_panel(config, member)


BAD = {
    "comparison": ("comparisons: {moe: {recipe: [a]}}", ["comparisons.moe", "'recipe'"]),
    "unknown point": (
        "comparisons: {pair: {each: [moe, dense@mlp_out.1]}}",
        ["comparisons.pair", "'mlp_out.1'", "resid_post.0.5"],
    ),
    "one source twice, all": (
        "comparisons: {pair: {all: [dense, dense]}}",
        ["comparisons.pair", "twice", "dense.0_dense.0"],
    ),
    "one source twice, each": (
        "comparisons: {pair: {each: [dense, dense]}}",
        ["comparisons.pair", "training.seeds"],
    ),
    "unknown model": ("comparisons: {pair: {each: [big]}}", ["comparisons.pair", "'big'", "moe"]),
    "unknown model, all": ("comparisons: {pair: {all: [moe, big]}}", ["comparisons.pair", "'big'"]),
    "unknown recipe": (
        "comparisons: {moe: {recipes: [default, big]}}",
        ["comparisons.moe.recipes", "'big'", "default"],
    ),
    "no model": ("comparisons: {pair: {each: []}}", ["comparisons.pair.each"]),
    "neither each nor all": ("comparisons: {pair: {recipes: [default]}}", ["'each'", "'all'"]),
    "both each and all": ("comparisons: {moe: {all: [moe]}}", ["comparisons.moe", "'all'"]),
    "a control without another source": (
        "comparisons: {moe: {control: permuted}}",
        ["comparisons.moe.control", "one other model's", "moe.0 has 1 sources"],
    ),
    "a copy beside two models": (
        "comparisons: {moe-dense: {control: rotated}}",
        ["comparisons.moe-dense.control", "its own model's", "3 sources"],
    ),
    "a dose too many": (
        "comparisons: {d: {all: [moe, dense], dose: [8, 1, 2]}}",
        ["comparisons.d.dose", "3 amounts for moe, dense"],
    ),
    "one dose": (
        "comparisons: {d: {all: [moe, dense], dose: [2, 2]}}",
        ["comparisons.d.dose", "all are 2"],
    ),
    "effects planted where there is no panel": (
        "detectable: {comparisons: [moe]}",
        ["detectable.comparisons: moe", "no panel"],
    ),
    "effects planted nowhere": (
        "detectable: {comparisons: [mo]}",
        ["detectable.comparisons: mo", "no such comparison"],
    ),
    "a seed of no model": (
        "comparisons: {moe: {seeds: [3]}}",
        ["comparisons.moe.seeds", "3", "'moe'"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_comparison_is_refused_in_one_line_that_names_the_place(case: str) -> None:
    refused(*BAD[case])
