"""The section `models`: likeness, seeds, equal active sizes, checkpoints on disk."""

import json
from pathlib import Path

import pytest

from configured import completed, refused
from moediff.config import comparisons, corpus
from moediff.config.checkpoints import checkpoint_files
from moediff.config.layout import Member, Source
from moediff.config.models import (
    active_block_parameters,
    layer_count,
    model_width,
    seeds,
)
from moediff.core.errors import ConfigError


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


def test_a_model_may_have_seeds_of_its_own() -> None:
    config = completed("{training: {seeds: [0, 1]}, models: {moe: {seeds: [5]}}}")
    assert [seeds(config, name) for name in ("moe", "dense")] == [[5], [0, 1]]


# --- equal active size -----------------------------------------------------------------------


def test_active_parameters_count_the_experts_that_a_token_uses() -> None:
    train = {"d_model": 128, "layers": 5, "ffn": 512, "top_k": 1, "experts": 64}
    assert active_block_parameters(train) == 1_310_720  # 5 (4 128^2 + 3 128 512)
    halves = train | {"ffn": 256, "top_k": 2}
    assert active_block_parameters(halves) == 1_310_720


@pytest.mark.parametrize("ffn", [508, 512, 516])  # 516 is 0.6 % more
def test_models_within_one_percent_match(ffn: int) -> None:
    assert completed(f"models: {{dense: {{train: {{ffn: {ffn}}}}}}}")


@pytest.mark.parametrize("ffn", [504, 520])  # 1.2 % off
def test_models_more_than_one_percent_apart_do_not_match(ffn: int) -> None:
    with pytest.raises(
        ConfigError, match=r"^models\.moe: 1310720 active.*, 'dense' has 1\d+; more than 1 %"
    ):
        completed(f"models: {{dense: {{train: {{ffn: {ffn}}}}}}}")


@pytest.mark.parametrize(("size", "value"), [("ffn", 252), ("ffn", 257), ("d_model", 132)])
def test_experts_have_sizes_that_their_product_takes(size: str, value: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"^models\.moe\.train\.{size}: {value} is no multiple of 8"
    ):
        completed({"models": {"moe": {"train": {"heads": 2, size: value}, "match!": {}}}})


# --- checkpoints on disk ---------------------------------------------------------------------


def test_a_checkpoint_has_one_seed_whatever_the_seeds_of_training() -> None:
    change = {
        "corpus": {"tokenizer!": {"load": "gpt2"}},
        "training": {"seeds": [4, 5]},
        "models": {"gpt2": {"load": "gpt2"}},
        "comparisons": {"pair": {"each": ["dense", "gpt2"]}},
    }
    config = completed(change)
    assert config["models"]["gpt2"] == {
        "load": "gpt2", "revision": None, "dtype": "float32", "device_map": None,
        "tokenizer": "corpus", "begin_of_text": False,
    }  # fmt: skip
    assert comparisons.members(config, "pair") == [
        Member("pair", (Source("dense", 4), Source("gpt2", 0))),
        Member("pair", (Source("dense", 5), Source("gpt2", 0))),
    ]
    assert layer_count(config, "gpt2") is None  # a Hub id is not asked
    assert layer_count(config, "dense") == 5


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
    config = completed(change)
    assert layer_count(config, "mine") == 3
    assert model_width(config, "mine") == 128
    change["activations"]["layer"] = 3
    with pytest.raises(ConfigError, match="3 does not exist in model 'mine', which has 3 layers"):
        completed(change)


def test_a_checkpoint_whose_config_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_layer": 5, ', encoding="utf-8")
    load = {"load": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"models\.mine"):
        completed({"corpus": {"tokenizer!": load}, "models": {"mine": load}})


def test_files_of_a_local_folder_are_watched_and_a_hub_id_is_not(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.json", "notes.md"):
        (tmp_path / name).write_text("x")
    names = [Path(path).name for path in checkpoint_files(str(tmp_path))]
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    names = [Path(path).name for path in corpus.tokenizer_files(str(tmp_path))]
    assert names == ["tokenizer.json", "vocab.json"]
    assert checkpoint_files("org/model") == corpus.tokenizer_files("org/model") == []


# --- refused ---------------------------------------------------------------------------------

BAD = {
    "model": ("models: {dense: {layers: 5}}", ["models.dense", "'layers'"]),
    "model.train": ("models: {dense: {train: {width: 5}}}", ["models.dense.train", "'width'"]),
    "name with a dot": ("models: {a.b: {like: dense}}", ["models", "a.b"]),
    "list for a mapping": ("models: {a: [1]}", ["models.a", "mapping"]),
    "top_k": ("models: {dense: {train: {top_k: 2}}}", ["models.dense.train", "top_k 2", "experts"]),
    "heads": ("models: {dense: {train: {heads: 5}}}", ["models.dense.train", "128", "5 heads"]),
    "odd head width": ("models: {dense: {train: {heads: 128}}}", ["models.dense.train", "128"]),
    "missing train key": ("models: {a: {train: {ffn: 8}}}", ["models.a.train", "'d_model'"]),
    "like nobody": ("models: {moe: {like: sparse}}", ["models.moe.like", "'sparse'", "dense"]),
    "like itself": ("models: {moe: {like: moe}}", ["models.moe.like", "'moe'"]),
    "like several": ("models: {moe: {like: [dense]}}", ["models.moe.like"]),
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
    "begins the corpus's own text": (
        "{corpus: {tokenizer!: {load: gpt2}}, models: {a: {load: gpt2, begin_of_text: true}}}",
        ["models.a.begin_of_text", "models.a.tokenizer to own"],
    ),
    "begins text of a model trained here": (
        "models: {dense: {begin_of_text: true}}",
        ["models.dense", "'begin_of_text'"],
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
    "learns from less than a sequence": (
        "models: {moe: {sees: {share: 1.0e-9}}}",
        ["models.moe.sees.share: 1e-09", "sequences is none"],
    ),
    "match nobody": ("models: {moe: {match: {active: a}}}", ["models.moe.match.active", "'a'"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_model_is_refused_in_one_line_that_names_the_place(case: str) -> None:
    refused(*BAD[case])
