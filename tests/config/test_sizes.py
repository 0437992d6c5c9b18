"""Sizes and seeds that cannot run are refused at once, by stated maxima or by an estimate."""

from __future__ import annotations

import time
from typing import Any

import pytest

from configured import completed
from conftest import SCHEMA
from moediff.config.base import Config
from moediff.core.errors import ConfigError


def counts(schema: Any, path: str = "") -> list[tuple[str, dict]]:
    """Every node of the schema that asks for a whole number."""
    if isinstance(schema, list):
        return [found for n, part in enumerate(schema) for found in counts(part, f"{path}.{n}")]
    if not isinstance(schema, dict):
        return []
    own = [(path, schema)] if "integer" in str(schema.get("type", "")) else []
    return own + [found for key, part in schema.items() for found in counts(part, f"{path}.{key}")]


def test_every_count_has_a_least_and_a_most() -> None:
    found = counts(SCHEMA)
    assert len(found) > 50
    assert [path for path, node in found if not {"minimum", "maximum"} <= node.keys()] == []


def test_every_seed_is_one_that_all_generators_take() -> None:
    import numpy as np
    import torch

    most = {
        node["maximum"] for path, node in counts(SCHEMA) if "seed" in path.split(".")[-1]
        or path.split(".")[-1] in ("choose", "score") or path.endswith("seeds.items")
    }  # fmt: skip
    assert most == {2**32 - 1}
    torch.manual_seed(2**32 - 1)
    np.random.default_rng(2**32 - 1)
    assert completed({"training": {"seeds": [2**32 - 1]}})


HUGE = {
    "seed": {"training": {"seeds": [2**64]}},
    "seed of the text": {"corpus": {"seed": 2**70}},
    "layers": {"models": {"dense": {"train": {"layers": 10**9}}}},
    "tokens": {"corpus": {"tokens": {"fit": 10**15}}},
    "shards": {"corpus": {"tokens": {"train": 10**12}}},
    "small shards": {"corpus": {"shard_tokens": 256, "tokens": {"fit": 10**8}}},
    "share of nothing": {"corpus": {"splits": {"validation": 1e-9}}},
    "features": {"recipes": {"default": {"features": 10**18}}},
    "dictionary": {
        "models": {n: {"train": {"d_model": 65_536}} for n in ("dense", "moe")},
        "recipes": {"default": {"features": 10**8}},
    },
    "batch": {"recipes": {"default": {"batch": 10**9}}},
    "vocabulary": {"corpus": {"tokenizer": {"train": 10**9}}},
    "model": {"models": {"dense": {"train": {"d_model": 65_536, "layers": 10_000, "ffn": 65_536}}}},
    "experts": {"models": {"moe": {"match": {}, "train": {"experts": 65_536, "ffn": 10**6}}}},
    "choices": {
        "training": {"seeds": list(range(30))},
        "comparisons": {"wide": {"each": ["moe", "dense"] * 5}},
    },
    "labels": {
        "training": {"seeds": list(range(11))},
        "comparisons": {"panel": {"all": ["moe", "dense"]}},
    },
    "number": {"training": {"clip": 10**400}},
    "layer": {"activations": {"layer": 1e308}},
    "tied": {"recipes": {"default": {"tied": 1e308}}},
    "exclusive": {"recipes": {"default": {"exclusive": 1e308}}},
    "prefix": {"recipes": {"default": {"prefixes": [1e308]}}},
    "split of next to nothing": {"corpus": {"splits": {"fit": 5e-324}}},
    "penalty": {"recipes": {"default": {"penalties": {"l1": {"weight": 1e308}}}}},
    "bandwidth": {"recipes": {"default": {"bandwidth": 1e308}}},
    "start": {"recipes": {"default": {"start": 5e-324}}},
    "balance": {"training": {"balance": 1e300}},
    "planted features": {"planted": {"features": 8, "active": 100}},
}


@pytest.mark.parametrize("case", HUGE)
def test_what_no_machine_runs_is_refused_in_a_moment(case: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        completed(HUGE[case])
    assert time.process_time() - began < 3
    assert len(str(caught.value)) < 400


def test_the_largest_study_is_let_pass() -> None:
    change: Config = {"corpus": {"tokens": {"train": 10**10, "fit": 10**9}, "shard_tokens": 10**6}}
    change["models"] = {
        "dense": {"train": {"d_model": 4096, "layers": 32, "heads": 32, "ffn": 11008}}
    }
    change["models"]["moe"] = {"train": {"ffn": 5504}}
    change["recipes"] = {"default": {"features": 2**22}}
    assert completed(change)


def test_a_line_of_a_refusal_is_one_line_that_a_terminal_shows_as_it_is() -> None:
    with pytest.raises(ConfigError) as caught:
        completed(
            {"corpus": {"domains": {"code!": {"source": "files", "paths": ["a\n\x1b[31m" * 999]}}}}
        )
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1100
