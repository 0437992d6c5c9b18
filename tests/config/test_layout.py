"""Names and places: what is made is taken apart again, and nothing is made or parsed elsewhere."""

from __future__ import annotations

import ast
import itertools
import re

import pytest

from moediff.config.layout import PATHS, Fit, Member, Source, one_of, parse, path, side
from moediff.core.errors import ConfigError, UserError
from workflow import ROOT

MODELS = ["moe", "dense", "my_moe", "moe-2", "a_1", "3b", "x_resid_post"]
POINTS = [None, "resid_post.0.5", "resid_post.3", "mlp_out.1.0", "attn_out.1e-05"]
VIEWS = [None, "rotated", "permuted"]
SOURCES = [
    Source(model, seed, point, view)
    for model, seed, point, view in itertools.product(MODELS, [0, 12], POINTS, VIEWS)
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_source_is_parsed_from_its_name(source: Source) -> None:
    assert Source.parse(source.name) == source


def test_a_source_without_a_seed_takes_the_one_given() -> None:
    assert Source.parse("moe", 0) == Source("moe", 0)
    assert Source.parse("moe@resid_post.0.5", 3) == Source("moe", 3, "resid_post.0.5")
    assert Source.parse("moe.2", 0) == Source("moe", 2)
    for name in ("moe", "", "moe.", "moe.0@", "moe.0@resid_post", "moe.x", ".0", "moe 0"):
        with pytest.raises(UserError, match="a source is written"):
            Source.parse(name)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_member_is_parsed_from_its_name(size: int) -> None:
    some = SOURCES[:: 3 if size == 3 else 1]
    for sources in itertools.islice(itertools.permutations(some, size), 0, None, 7):
        member = Member("pairs", sources)
        assert Member.parse("pairs", member.name) == member


def test_what_is_no_member_is_refused() -> None:
    for name in ("", "moe", "moe.0_dense", "moe.0__dense.0", "_moe.0"):
        with pytest.raises(UserError, match="not the name"):
            Member.parse("pairs", name)


def test_a_side_has_a_point_or_none() -> None:
    assert side("moe") == ("moe", None)
    assert side("moe@resid_post.0.5") == ("moe", "resid_post.0.5")


def test_a_model_at_a_step_is_a_model_of_its_own() -> None:
    assert side("moe:step-500") == ("moe-step-500", None)
    assert side("moe@resid_post.0.5:step-0500") == ("moe-step-500", "resid_post.0.5")
    assert Source.parse("moe.1:step-500") == Source("moe-step-500", 1)
    source = Source.parse("moe@resid_post.0.5:step-500", 0)
    assert source == Source("moe-step-500", 0, "resid_post.0.5")
    assert Source.parse(source.name) == source
    for name in ("moe:500", "moe:step-x", "moe:step--1", "moe:step-500@resid_post.0.5", "moe:"):
        with pytest.raises(ConfigError, match="a side is written"):
            side(name)


@pytest.mark.parametrize("kind", PATHS)
def test_every_path_is_parsed_from_what_was_made(kind: str) -> None:
    names = re.findall(r"{(\w+)}", PATHS[kind])
    values = {name: "svg" if name == "format" else f"{name}.7@x" for name in names}
    for results in ("", "results/", "/a/b/results/study/"):
        assert parse(kind, results + path(kind, **values)) == values


def test_what_is_not_given_stays_a_wildcard() -> None:
    assert path("tokens", split="fit") == "corpus/fit/{shard}.h5"
    assert path("tokens", split="fit", shard=3) == "corpus/fit/00003.h5"
    with pytest.raises(KeyError, match="no seed in"):
        path("tokens", seed=3)


def test_a_path_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match="not a path like models/"):
        parse("model", "results/activations/moe/seed-0/model.json")


def test_a_dictionary_says_where_its_files_lie() -> None:
    fit = Fit(Member("pairs", (Source("moe", 0), Source("dense", 1))), "default", 2)
    folder = "dictionaries/pairs/moe.0_dense.1/default/seed-2"
    assert fit.path() == folder
    assert fit.path("metrics.json") == f"{folder}/metrics.json"
    assert fit.path("affinity.parquet", "moe.0") == f"{folder}/experts/moe.0/affinity.parquet"


# --- nothing of it elsewhere --------------------------------------------------------------------

MADE = re.compile(
    r"seed-|\.zarr\.zip|^(?:corpus|retokenised|models|activations|baselines|dictionaries|exports|plots|"
    r"logs|benchmarks|state)/"
)


def literals(text: str) -> list[str]:
    """Strings of a Python file, docstrings left out."""
    tree = ast.parse(text)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_no_path_under_results_is_spelled_elsewhere() -> None:
    for file in sorted((ROOT / "scripts").rglob("*.py")):
        if file.name != "layout.py":
            spelled = [
                text for text in literals(file.read_text(encoding="utf-8")) if MADE.search(text)
            ]
            assert not spelled, file
    for file in [ROOT / "Snakefile", *sorted((ROOT / "rules").rglob("*.smk"))]:
        for text in re.findall(r'"([^"\n]*)"', file.read_text(encoding="utf-8")):
            assert not MADE.search(text), f"{file.name}: {text}"


def test_a_constraint_lets_its_names_through_and_no_other_that_begins_like_one() -> None:
    """As Snakemake asks: of a value alone where it begins, of a path as a part of its pattern."""
    alone = re.compile(one_of(["moe", "my.moe"]))
    within = re.compile(
        f"results/models/(?P<model>{one_of(['moe', 'my.moe'])})(?:-step-20)?/seed-0$"
    )
    for name in ("moe", "my.moe"):
        assert alone.match(name)
        for told in (name, f"{name}-step-20"):
            assert within.match(f"results/models/{told}/seed-0")["model"] == name
    for name in ("moe-step-20", "moe2", "my-moe", "a-moe", ""):
        assert not alone.match(name)
    for name in ("moe2", "my-moe", "a-moe", ""):
        assert not within.match(f"results/models/{name}/seed-0")
    assert not re.compile(one_of([])).match("")
