"""Configs made whole: defaults of every section, numbers however written, keys wrong or missing."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from configured import FOLDER, PAIR, SHIPPED, changed, completed, refused
from conftest import PRESETS, SCHEMA
from moediff.config import comparisons, complete, corpus
from moediff.config.base import count_of
from moediff.core.errors import ConfigError
from usages import VARIATION

# --- defaults --------------------------------------------------------------------------------


def nodes(schema: Any, path: str = "") -> list[tuple[str, dict]]:
    """Every mapping of the schema, with where it stands."""
    if isinstance(schema, list):
        return [pair for i, part in enumerate(schema) for pair in nodes(part, f"{path}.{i}")]
    if not isinstance(schema, dict):
        return []
    below = [
        pair
        for key, part in schema.items()
        if key not in ("default", "required", "enum")
        for pair in nodes(part, f"{path}.{key}")
    ]
    return [(path, schema), *below]


def test_every_default_of_the_schema_is_valid_under_its_own_schema() -> None:
    with_default = [(path, node) for path, node in nodes(SCHEMA) if "default" in node]
    assert len(with_default) > 60
    for path, node in with_default:
        own = {**node, "$defs": SCHEMA["$defs"]}
        assert Draft202012Validator(own).is_valid(node["default"]), path


OPTIONAL = {
    "corpus", "like", "active", "init", "training", "z", "l1", "tanh", "l0", "longest", "skip",
}  # fmt: skip


def test_few_keys_of_the_schema_are_neither_required_nor_given_a_default() -> None:
    silent = set()
    for path, node in nodes(SCHEMA):
        if node.get("type") != "object":
            continue
        for key, part in node.get("properties", {}).items():
            part = SCHEMA["$defs"][part["$ref"][len("#/$defs/") :]] if "$ref" in part else part
            if "default" not in part and key not in node.get("required", []):
                silent.add(f"{path}.{key}")
    assert {path.rsplit(".", 1)[1] for path in silent} == OPTIONAL


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("results", "results"),
        ("device", "auto"),
        ("corpus.splits", {"fit": 0.25, "validation": 0.1}),
        ("corpus.tokenizer", {"train": 4096}),
        ("corpus.sequence", {"length": 256, "attend_across_documents": False}),
        (
            "corpus.domains.code",
            {
                "source": "stdlib",
                "longest": 10_000,
                "skip": ["encodings/*", "stringprep.py"],
                "megabytes": None,
                "weight": 1,
            },
        ),
        ("corpus.domains.stories.seed", 0),
        ("models.dense.match", {}),
        ("models.dense.train.top_k", 1),
        ("training.peak_lr", 0.003),
        ("training.micro_batch", None),
        ("training.betas", [0.9, 0.99]),
        (
            "activations.drop",
            {"sequence_start": True, "special_tokens": True, "massive_norm": "auto"},
        ),
        ("activations.layer", 0.5),
        ("recipes.default.tied", 0.06),
        ("recipes.default.threshold_rows", None),
        ("comparisons.moe.recipes", ["default"]),
        ("features", {"dead_below": 1, "bounds": [0.3, 0.7], "user_floor": 0.2}),
        ("plots", {"width": 420, "height": 260}),
    ],
)
def test_a_silent_config_gets_its_defaults(place: str, value: Any) -> None:
    found = completed()
    for key in place.split("."):
        found = found[key]
    assert found == value


def test_no_key_with_a_default_is_left_out_at_any_depth() -> None:
    def compare(schema: dict, value: Any, path: str) -> int:
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"][len("#/$defs/") :]]
        for branch in schema.get("oneOf", []):
            kind = branch["properties"].get("source", {}).get("const")
            if set(branch["required"]) <= value.keys() and kind in (None, value.get("source")):
                schema = branch
                break
        if not isinstance(value, dict) or schema.get("type") != "object":
            return 1
        others = schema.get("additionalProperties")
        parts = dict(schema.get("properties", {}))
        parts |= {key: others for key in value if isinstance(others, dict) and key not in parts}
        assert not parts.keys() - value.keys() - OPTIONAL, path
        return sum(compare(parts[key], value[key], f"{path}.{key}") for key in value)

    assert compare(SCHEMA, completed(), "") >= 90


def test_recipes_may_be_left_out() -> None:
    config = changed("{}")
    del config["recipes"]
    assert complete.complete(config, SCHEMA, PRESETS)["recipes"]["default"]["k"] == 12


def test_the_given_config_is_not_changed_and_a_whole_config_stays_as_it_is() -> None:
    config = changed("{}")
    whole = complete.complete(config, SCHEMA, PRESETS)
    assert config == PAIR
    assert whole != config
    assert complete.complete(whole, SCHEMA, PRESETS) == whole
    whole["corpus"]["splits"]["fit"] = 0.9  # a default is a copy, not the schema's own
    assert completed()["corpus"]["splits"]["fit"] == 0.25


def test_the_config_that_the_bad_ones_change_is_good() -> None:
    assert completed()["comparisons"].keys() == {"moe-dense", "moe", "dense"}


def test_shipped_configs_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    default = complete.complete(SHIPPED["config"], SCHEMA, PRESETS)
    assert [len(fit.member.sources) for fit in comparisons.fits(default)] == [8, 2, 1, 1]
    with pytest.raises(ConfigError, match=r"corpus\.domains\.code\.paths: no file matches"):
        complete.complete(SHIPPED["local-text"], SCHEMA, PRESETS)
    Path("text").mkdir()
    for name in ("code", "science", "stories"):
        Path(f"text/{name}.parquet").touch()
    assert len(comparisons.fits(complete.complete(SHIPPED["local-text"], SCHEMA, PRESETS))) == 3
    paper = complete.complete(SHIPPED["paper"], SCHEMA, PRESETS)
    assert [fit.recipe for fit in comparisons.fits(paper)] == [
        "paper-k50", "paper-k100", "paper-k300", "sae-k100", "sae-k100",
    ]  # fmt: skip
    recipe = paper["recipes"]["paper-k300"]
    assert count_of(recipe["tied"], recipe["features"]) == 1500


# --- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "whole", "count"),
    [(0.06, 2048, 123), (0.5, 10, 5), (1.0, 10, 10), (0.0, 10, 0), (1, 10, 1), (1500, 24576, 1500)],
)
def test_a_number_with_a_point_is_a_share_and_a_whole_number_a_count(
    amount: float, whole: int, count: int
) -> None:
    assert count_of(amount, whole) == count


@pytest.mark.parametrize(
    "change",
    ["corpus: {tokens: {train: 4.5e+5}}", "models: {dense: {train: {layers: 5.0}}}"],
)
def test_a_whole_number_written_with_a_point_is_a_whole_number(change: str) -> None:
    whole = completed(change)
    assert range(corpus.shard_count(whole, "train"))
    assert range(whole["models"]["dense"]["train"]["layers"])


def test_the_config_of_graded_worlds_has_the_base_world_and_that_of_nothing_in_it() -> None:
    planted = completed((FOLDER / "planted.yaml").read_text(encoding="utf-8"))["planted"]
    for factor, levels in planted["factors"].items():
        assert planted["base"][factor] in levels
    assert 0 in planted["factors"]["unique"]
    default = completed()["planted"]
    assert planted["base"].pop("variation") == VARIATION
    assert default["base"].pop("variation") == 0
    assert {**planted, "factors": default["factors"]} == default


# --- refused ---------------------------------------------------------------------------------

BAD = {
    "top level": ("colour: red", ["config", "unknown key 'colour'"]),
    "bounds that cross": ("features: {bounds: [0.7, 0.3]}", ["features.bounds"]),
    "a seed that chooses and scores": (
        "planted: {seeds: {choose: [0], score: [0, 1]}}",
        ["planted.seeds", "seed 0", "both"],
    ),
    "a planted feature on more than every row": (
        "planted: {active: 8, factors: {zipf: [0, 2]}}",
        ["planted.factors.zipf", "zipf 2", "4.91 of all rows", "planted.active"],
    ),
    "planted features that are all children": (
        "planted: {base: {children: 0.999}}",
        ["planted.base", "children 0.999", "no parent"],
    ),
    "a planted feature weaker where it should be stronger": (
        "planted: {base: {strength: 0.5}}",
        ["planted.base.strength", "0.5"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_config_is_refused_in_one_line_that_names_the_place(case: str) -> None:
    refused(*BAD[case])


@pytest.mark.parametrize("key", ["corpus", "models", "comparisons"])
def test_a_config_without_a_required_key(key: str) -> None:
    config = changed("{}")
    del config[key]
    with pytest.raises(ConfigError, match=f"^config: the key '{key}' is missing$"):
        complete.complete(config, SCHEMA, PRESETS)
