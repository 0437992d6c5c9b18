"""Configs made whole: defaults, what a config asks for, and one line for each way to be wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from configured import SHIPPED, changed, completed
from conftest import PRESETS, SCHEMA
from moediff.config import activations, comparisons, complete, corpus
from moediff.config.base import count_of
from moediff.config.layout import Member, Source
from moediff.config.models import (
    active_block_parameters,
    checkpoint_files,
    layer_count,
    model_width,
    seeds,
)
from moediff.config.training import peak_rates
from moediff.core.errors import ConfigError

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
    assert config == SHIPPED["config"]
    assert whole != config
    assert complete.complete(whole, SCHEMA, PRESETS) == whole
    whole["corpus"]["splits"]["fit"] = 0.9  # a default is a copy, not the schema's own
    assert completed()["corpus"]["splits"]["fit"] == 0.25


def test_shipped_configs_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
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


# --- like ------------------------------------------------------------------------------------


def test_like_takes_the_train_keys_where_a_model_is_silent() -> None:
    models = completed(
        "models: {big: {like: moe, train: {layers: 7}}, twin: {like: dense}}",
    )["models"]
    dense = {
        "d_model": 128, "layers": 5, "heads": 4, "ffn": 512, "experts": 1, "top_k": 1,
        "renormalise": False,
    }  # fmt: skip
    moe = dense | {"ffn": 256, "experts": 8, "top_k": 2}
    assert models["dense"]["train"] == dense
    assert models["twin"]["train"] == dense
    assert models["moe"]["train"] == moe
    assert models["big"]["train"] == moe | {"layers": 7}  # through two models
    assert models["big"]["match"] == {}  # only `train` is taken


# --- shares, counts and layers ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "whole", "count"),
    [(0.06, 2048, 123), (0.5, 10, 5), (1.0, 10, 10), (0.0, 10, 0), (1, 10, 1), (1500, 24576, 1500)],
)
def test_a_number_with_a_point_is_a_share_and_a_whole_number_a_count(
    amount: float, whole: int, count: int
) -> None:
    assert count_of(amount, whole) == count


@pytest.mark.parametrize(
    ("layer", "layers", "index"),
    [(0.5, 5, 2), (0.5, 7, 3), (0.5, 4, 2), (0.5, 1, 0), (0.0, 5, 0), (1.0, 5, 4), (0.99, 5, 4),
     (1, 5, 1), (0, 5, 0), (4, 5, 4)],
)  # fmt: skip
def test_layer_by_index_or_by_share_of_depth(layer: float, layers: int, index: int) -> None:
    assert activations.resolve_layer(layer, layers, "dense") == index


@pytest.mark.parametrize(("layer", "layers"), [(5, 5), (1, 1), (100, 5), (1.5, 5), (2.0, 5)])
def test_layer_that_a_model_lacks(layer: float, layers: int) -> None:
    with pytest.raises(ConfigError, match=f"layer: {layer} does not exist in model 'dense'"):
        activations.resolve_layer(layer, layers, "dense")


# --- members and fits ------------------------------------------------------------------------


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


def test_a_checkpoint_has_one_seed_whatever_the_seeds_of_training() -> None:
    change = {
        "corpus": {"tokenizer!": {"load": "gpt2"}},
        "training": {"seeds": [4, 5]},
        "models": {"gpt2": {"load": "gpt2"}},
        "comparisons": {"pair": {"each": ["dense", "gpt2"]}},
    }
    config = complete.complete(changed(change), SCHEMA, PRESETS)
    assert config["models"]["gpt2"] == {
        "load": "gpt2", "revision": None, "dtype": "float32", "device_map": None,
        "tokenizer": "corpus",
    }  # fmt: skip
    assert comparisons.members(config, "pair") == [
        Member("pair", (Source("dense", 4), Source("gpt2", 0))),
        Member("pair", (Source("dense", 5), Source("gpt2", 0))),
    ]
    assert layer_count(config, "gpt2") is None  # a Hub id is not asked
    assert layer_count(config, "dense") == 5


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


def test_one_rate_or_a_sweep() -> None:
    assert peak_rates(completed("training: {peak_lr: 5.0e-4}"), "moe") == [0.0005]
    both = "training: {peak_lr: [1.0e-3, 2.0e-3]}"
    assert peak_rates(completed(both), "moe") == [0.001, 0.002]
    untrained = completed(f"{{{both}, models: {{moe: {{sees: {{share: 0}}}}}}}}")
    assert peak_rates(untrained, "moe") == [0.001]  # nothing to try


def test_a_model_may_have_seeds_of_its_own() -> None:
    config = completed("{training: {seeds: [0, 1]}, models: {moe: {seeds: [5]}}}")
    assert [seeds(config, name) for name in ("moe", "dense")] == [[5], [0, 1]]


# --- sizes -----------------------------------------------------------------------------------


def test_sequences_and_shards() -> None:
    paper = complete.complete(SHIPPED["paper"], SCHEMA, PRESETS)
    splits = ("train", "fit", "validation")
    assert [corpus.sequences(paper, split) for split in splits] == [1_953_125, 52_734, 1953]
    assert [corpus.shard_count(paper, split) for split in splits] == [954, 26, 1]
    exact = "corpus: {tokens: {train: 8192}, shard_tokens: 2048}"  # 32 sequences, 8 a shard
    assert corpus.shard_count(completed(exact), "train") == 4
    uneven = "corpus: {tokens: {train: 8448}, shard_tokens: 2303}"  # 33 sequences, 8 a shard
    assert corpus.shard_count(completed(uneven), "train") == 5


def test_text_bytes() -> None:
    # A third of 240,000 tokens at 10 bytes from a quarter of the groups: the fit split rules.
    assert corpus.text_bytes(completed(), "code") == pytest.approx(2**22, abs=1)
    heavy = completed("corpus: {domains: {code: {weight: 2}}}")
    assert corpus.text_bytes(heavy, "code") == pytest.approx(2**23, abs=1)
    assert corpus.text_bytes(heavy, "stories") == pytest.approx(2**22, abs=1)
    train = completed("corpus: {tokens: {train: 1_950_000}}")  # 65 % of the groups
    assert corpus.text_bytes(train, "code") == pytest.approx(2**24, abs=1)
    asked = completed("corpus: {domains: {code: {megabytes: 2.5}}}")
    assert corpus.text_bytes(asked, "code") == 2_500_000
    here = {"corpus": {"domains": {"code": {"source": "files", "paths": [__file__]}}}}
    assert corpus.text_bytes(complete.complete(changed(here), SCHEMA, PRESETS), "code") is None


# --- equal active size -----------------------------------------------------------------------


def test_active_parameters_count_the_experts_that_a_token_uses() -> None:
    train = {"d_model": 128, "layers": 5, "ffn": 512, "top_k": 1, "experts": 64}
    assert active_block_parameters(train) == 1_310_720  # 5 (4 128^2 + 3 128 512)
    halves = train | {"ffn": 256, "top_k": 2}
    assert active_block_parameters(halves) == 1_310_720


@pytest.mark.parametrize("ffn", [254, 256, 258])  # 258 is 0.6 % more
def test_models_within_one_percent_match(ffn: int) -> None:
    assert completed(f"models: {{moe: {{train: {{ffn: {ffn}}}}}}}")


@pytest.mark.parametrize("ffn", [252, 260])  # 1.2 % off
def test_models_more_than_one_percent_apart_do_not_match(ffn: int) -> None:
    with pytest.raises(ConfigError, match=r"^models\.moe: .*'dense' has 1310720; more than 1 %"):
        completed(f"models: {{moe: {{train: {{ffn: {ffn}}}}}}}")


# --- checkpoints on disk ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts",
    [
        {"num_hidden_layers": 3, "hidden_size": 128},
        {"n_layer": 3, "n_embd": 128},
        {"text_config": {"num_hidden_layers": 3, "hidden_size": 128}, "num_hidden_layers": 9},
    ],
)
def test_a_checkpoint_with_fewer_layers_than_asked(tmp_path: Path, facts: dict) -> None:
    (tmp_path / "config.json").write_text(json.dumps(facts), encoding="utf-8")
    change = {
        "corpus": {"tokenizer!": {"load": str(tmp_path)}},
        "models": {"mine": {"load": str(tmp_path)}},
        "activations": {"layer": 2},
    }
    config = complete.complete(changed(change), SCHEMA, PRESETS)
    assert layer_count(config, "mine") == 3
    assert model_width(config, "mine") == 128
    change["activations"]["layer"] = 3
    with pytest.raises(ConfigError, match="3 does not exist in model 'mine', which has 3 layers"):
        complete.complete(changed(change), SCHEMA, PRESETS)


def test_a_tie_by_direction_reads_the_width_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_layer": 5, "n_embd": 96}', encoding="utf-8")
    change = {
        "corpus": {"tokenizer!": {"load": str(tmp_path)}},
        "models": {"mine": {"load": str(tmp_path)}},
        "recipes": {"default": {"tie": "direction"}},
        "comparisons": {"pair": {"each": ["dense", "mine"]}},
    }
    with pytest.raises(ConfigError, match="dense 128, mine 96"):
        complete.complete(changed(change), SCHEMA, PRESETS)


# --- configs that cannot be run --------------------------------------------------------------

BAD = {
    "top level": ("colour: red", ["config", "unknown key 'colour'"]),
    "corpus": ("corpus: {token: 5}", ["corpus", "unknown key 'token'", "tokens"]),
    "domain": ("corpus: {domains: {code: {size: 5}}}", ["corpus.domains.code", "'size'"]),
    "model": ("models: {dense: {layers: 5}}", ["models.dense", "'layers'"]),
    "model.train": ("models: {dense: {train: {width: 5}}}", ["models.dense.train", "'width'"]),
    "recipe": ("recipes: {default: {topk: 5}}", ["recipes.default", "'topk'", "features"]),
    "sequence": ("corpus: {sequence: {len: 9}}", ["corpus.sequence", "'len'", "length"]),
    "drop": ("activations: {drop: {bos: true}}", ["activations.drop", "'bos'"]),
    "comparison": ("comparisons: {moe: {recipe: [a]}}", ["comparisons.moe", "'recipe'"]),
    "source kind": (
        "corpus: {domains: {code: {source: stdlibs}}}",
        ["corpus.domains.code.source", "'stdlibs'", "stdlib", "tales"],
    ),
    "no source": ("corpus: {domains: {a: {weight: 2}}}", ["corpus.domains.a", "'source'"]),
    "files without paths": ("corpus: {domains: {a: {source: files}}}", ["domains.a", "'paths'"]),
    "hub without revision": (
        "corpus: {domains: {a: {source: hub, id: b/c}}}",
        ["corpus.domains.a", "'revision'"],
    ),
    "rate as text": ("training: {peak_lr: 5e-4}", ["training.peak_lr", "'5e-4'", "write 5.0e-4"]),
    "rates as text": ("training: {peak_lr: [1.0e-3, 5e-4]}", ["training.peak_lr.1", "5.0e-4"]),
    "recipe rate as text": ("recipes: {default: {lr: 1e-3}}", ["recipes.default.lr", "1.0e-3"]),
    "zero rate": ("training: {peak_lr: 0}", ["training.peak_lr"]),
    "count as a share": ("corpus: {tokens: {fit: 0.5}}", ["corpus.tokens.fit", "0.5"]),
    "missing tokens": ("corpus: {tokens!: {train: 4096, fit: 4096}}", ["tokens", "'validation'"]),
    "missing file": (
        "corpus: {domains: {code: {source: files, paths: [not-here/*.parquet]}}}",
        ["corpus.domains.code.paths", "'not-here/*.parquet'"],
    ),
    "k": ("recipes: {default: {k: 3000}}", ["recipes.default.k", "3000", "2048"]),
    "tied count": ("recipes: {default: {tied: 3000}}", ["recipes.default.tied", "3000", "2048"]),
    "tied share": ("recipes: {default: {tied: 1.5}}", ["recipes.default.tied", "1.5", "2048"]),
    "tied and exclusive": (
        "recipes: {default: {tied: 0.5, exclusive: 0.3}}",
        ["comparisons.moe-dense", "'default'", "1024 tied", "1228 exclusive"],
    ),
    "threshold": ("recipes: {default: {threshold_rows: 200000}}", ["threshold_rows", "240000"]),
    "schedule": ("recipes: {default: {warmup: 0.5, decay: 0.6}}", ["recipes.default", "decay"]),
    "layer index": ("activations: {layer: 5}", ["activations.layer", "5", "'dense'", "0 to 4"]),
    "layer share": ("activations: {layer: 1.5}", ["activations.layer", "1.5", "'dense'"]),
    "layer of one model": (
        "{activations: {layer: 3}, models: {flat: {like: dense, train: {layers: 2}}}}",
        ["activations.layer", "'flat'", "2 layers"],
    ),
    "hook": ("activations: {hook: resid}", ["activations.hook", "'resid'", "resid_post"]),
    "one of several hooks": (
        "activations: {hook: [resid_post, resid]}",
        ["activations.hook.1", "'resid'", "attn_out"],
    ),
    "one of several layers": (
        "activations: {layer: [0, 7]}",
        ["activations.layer", "7", "'dense'"],
    ),
    "no layer": ("activations: {layer: []}", ["activations.layer", "[]"]),
    "unknown point": (
        "comparisons: {pair: {each: [moe, dense@mlp_out.1]}}",
        ["comparisons.pair", "'mlp_out.1'", "resid_post.0.5"],
    ),
    "direction": (
        """
        models: {slim: {like: dense, train: {d_model: 64}}}
        recipes: {default: {tie: direction}}
        comparisons: {pair: {each: [dense, slim]}}
        """,
        ["comparisons.pair", "'default'", "dense 128", "slim 64", "tie: norm"],
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
    "top_k": ("models: {dense: {train: {top_k: 2}}}", ["models.dense.train", "top_k 2", "experts"]),
    "heads": ("models: {dense: {train: {heads: 5}}}", ["models.dense.train", "128", "5 heads"]),
    "odd head width": ("models: {dense: {train: {heads: 128}}}", ["models.dense.train", "128"]),
    "missing train key": ("models: {a: {train: {ffn: 8}}}", ["models.a.train", "'d_model'"]),
    "like nobody": ("models: {moe: {like: sparse}}", ["models.moe.like", "'sparse'", "dense"]),
    "like itself": ("models: {moe: {like: moe}}", ["models.moe.like", "'moe'"]),
    "like in a circle": ("models: {dense: {like: moe}}", ["models.", ".like"]),
    "like a checkpoint": (
        "models: {a: {load: gpt2}, b: {like: a}}",
        ["models.b.like", "'a'", "loaded"],
    ),
    "neither load nor train": ("models: {a: {}}", ["models.a", "'load'", "'train'"]),
    "load and train": ("models: {moe: {load: gpt2}}", ["models.moe", "unknown key"]),
    "load without its tokenizer": (
        "models: {a: {load: gpt2}}",
        ["models.a.load", "corpus.tokenizer", "{load: gpt2}"],
    ),
    "a control without another source": (
        "comparisons: {moe: {control: permuted}}",
        ["comparisons.moe.control", "one other model's", "moe.0 has 1 sources"],
    ),
    "a copy beside two models": (
        "comparisons: {moe-dense: {control: rotated}}",
        ["comparisons.moe-dense.control", "its own model's", "3 sources"],
    ),
    "a seed of no model": (
        "comparisons: {moe: {seeds: [3]}}",
        ["comparisons.moe.seeds", "3", "'moe'"],
    ),
    "a seed that chooses and scores": (
        "planted: {seeds: {choose: [0], score: [0, 1]}}",
        ["planted.seeds", "seed 0", "both"],
    ),
    "learns from nothing known": (
        "models: {moe: {sees: {domains: [poems]}}}",
        ["models.moe.sees.domains", "'poems'", "code, science, stories"],
    ),
    "learns from some, reads all": (
        "{models: {moe: {sees: {domains: [code]}}}, "
        "corpus: {sequence: {attend_across_documents: true}}}",
        ["models.moe.sees.domains", "attend_across_documents"],
    ),
    "match nobody": ("models: {moe: {match: {active: a}}}", ["models.moe.match.active", "'a'"]),
    "splits": ("corpus: {splits: {fit: 0.9, validation: 0.1}}", ["corpus.splits", "train"]),
    "less than a sequence": ("corpus: {tokens: {fit: 255}}", ["corpus.tokens.fit", "255", "256"]),
    "shard of no sequence": ("corpus: {shard_tokens: 128}", ["corpus.shard_tokens", "128", "256"]),
    "name with a dot": ("models: {a.b: {like: dense}}", ["models", "a.b"]),
    "twice the same seed": ("training: {seeds: [1, 1]}", ["training.seeds"]),
    "list for a mapping": ("models: {a: [1]}", ["models.a", "mapping"]),
    "nothing for a mapping": ("training: null", ["training", "object"]),
}


def test_the_config_that_the_bad_ones_change_is_good() -> None:
    assert completed()["comparisons"].keys() == {"moe-dense", "moe", "dense"}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_config_is_refused_in_one_line_that_names_the_place(case: str) -> None:
    change, named = BAD[case]
    with pytest.raises(ConfigError) as caught:
        completed(change)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in named if part not in message] == [], message


@pytest.mark.parametrize("key", ["corpus", "models", "comparisons"])
def test_a_config_without_a_required_key(key: str) -> None:
    config = changed("{}")
    del config[key]
    with pytest.raises(ConfigError, match=f"^config: the key '{key}' is missing$"):
        complete.complete(config, SCHEMA, PRESETS)


def test_a_tie_by_direction_needs_equal_widths_only_where_something_is_tied() -> None:
    slim = "models: {slim: {like: dense, train: {d_model: 64}}}\n"
    pair = "comparisons: {pair: {each: [dense, slim]}}\n"
    assert completed(slim + pair + "recipes: {default: {tie: norm}}")
    assert completed(slim + pair + "recipes: {default: {tie: direction, tied: 0}}")
    assert completed(slim + "recipes: {default: {tie: direction}}")  # no member holds both


# --- known defects ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("models: {moe: {like: [dense]}}", "models.moe.like"),
        ("corpus: {domains: {code: {source: [stdlib]}}}", "corpus.domains.code.source"),
        ("training: {peak_lr: .nan}", "training.peak_lr"),
        ("training: {peak_lr: .inf}", "training.peak_lr"),
        ("features: {bounds: [0.7, 0.3]}", "features.bounds"),
        ('training: {peak_lr: "5e-4\\n"}', "training.peak_lr"),
    ],
)
def test_odd_values_are_refused_in_one_line(change: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        completed(change)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_group_pattern_that_is_no_regular_expression() -> None:
    here = {"source": "files", "paths": [__file__], "group": "source", "group_pattern": "("}
    with pytest.raises(ConfigError, match=r"corpus\.domains\.code\.group_pattern"):
        completed({"corpus": {"domains": {"code!": here}}})


def test_a_checkpoint_whose_config_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_layer": 5, ', encoding="utf-8")
    load = {"load": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"models\.mine"):
        completed({"corpus": {"tokenizer!": load}, "models": {"mine": load}})


@pytest.mark.parametrize(
    "change",
    ["corpus: {tokens: {train: 4.5e+5}}", "models: {dense: {train: {layers: 5.0}}}"],
)
def test_a_whole_number_written_with_a_point_is_a_whole_number(change: str) -> None:
    whole = completed(change)
    assert range(corpus.shard_count(whole, "train"))
    assert range(whole["models"]["dense"]["train"]["layers"])


def test_files_of_a_local_folder_are_watched_and_a_hub_id_is_not(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.json", "notes.md"):
        (tmp_path / name).write_text("x")
    names = [Path(path).name for path in checkpoint_files(str(tmp_path))]
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    names = [Path(path).name for path in corpus.tokenizer_files(str(tmp_path))]
    assert names == ["tokenizer.json", "vocab.json"]
    assert checkpoint_files("org/model") == corpus.tokenizer_files("org/model") == []


@pytest.mark.parametrize("betas", ["[0.9, 1.0]", "[-0.1, 0.9]"])
def test_betas_that_adam_cannot_use_are_refused(betas: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.betas"):
        completed(f"training: {{betas: {betas}}}")
