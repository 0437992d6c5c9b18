"""The section `training`, and what a model changes of it: settings, first weights, what jobs are told."""

from __future__ import annotations

import pytest

from configured import completed, refused
from conftest import SCHEMA
from moediff.config import training
from moediff.core.errors import ConfigError

TUNED = "tuned: {like: dense, init: {checkpoint: dense}"


def test_a_model_is_trained_by_its_own_keys_where_it_has_them() -> None:
    config = completed(
        """
        training: {peak_lr: [1.0e-3, 2.0e-3], batch: 8, router_losses: {z: 0.1}}
        models: {moe: {training: {peak_lr: 5.0e-4, epochs: 2, router_losses: {}}}}
        """
    )
    assert config["models"]["moe"]["training"] == {  # no default is filled in
        "peak_lr": 5.0e-4, "epochs": 2, "router_losses": {},
    }  # fmt: skip
    moe, dense = (training.training_of(config, name) for name in ("moe", "dense"))
    assert dense == config["training"]
    assert moe == dense | {"peak_lr": 5.0e-4, "epochs": 2, "router_losses": {}}
    assert training.peak_rates(config, "moe") == [5.0e-4]  # a sweep of the other model alone
    assert training.peak_rates(config, "dense") == [1.0e-3, 2.0e-3]


def test_a_list_of_rates_of_one_model_is_a_sweep_of_that_model() -> None:
    config = completed("models: {moe: {training: {peak_lr: [1.0e-3, 2.0e-3]}}}")
    assert training.peak_rates(config, "moe") == [1.0e-3, 2.0e-3]
    assert training.peak_rates(config, "dense") == [3.0e-3]
    assert "peak_lr" not in training.training_params(config, "moe")
    assert training.training_params(config, "dense")["peak_lr"] == 3.0e-3


def test_one_rate_or_a_sweep() -> None:
    assert training.peak_rates(completed("training: {peak_lr: 5.0e-4}"), "moe") == [0.0005]
    both = "training: {peak_lr: [1.0e-3, 2.0e-3]}"
    assert training.peak_rates(completed(both), "moe") == [0.001, 0.002]
    untrained = completed(f"{{{both}, models: {{moe: {{sees: {{share: 0}}}}}}}}")
    assert training.peak_rates(untrained, "moe") == [0.001]  # nothing to try


def test_jobs_of_models_trained_before_are_told_what_they_were() -> None:
    """Snakemake compares the text of parameters: a key more, or another order, would train them again."""
    told = (
        "'batch': 4, 'micro_batch': None, 'epochs': 1, 'warmup': 0.05, 'final_lr': 0.1, "
        "'betas': [0.9, 0.99], 'weight_decay': 0.01, 'clip': 1.0, 'balance': 0.01, "
        "'precision': 'auto', 'data_seed': None, 'evaluations': 8, 'domains': None"
    )
    config = completed()
    for model in ("dense", "moe"):
        assert repr(training.trial_params(config, model)) == f"{{{told}}}"
        whole = f"{{{told}, 'share': 1, 'peak_lr': 0.003}}"
        assert repr(training.training_params(config, model)) == whole
    assert training.trial_seed(completed("training: {seeds: [4, 5]}"), "moe") == 4


def test_younger_keys_are_at_their_defaults_where_jobs_are_not_told_of_them() -> None:
    properties = SCHEMA["properties"]["training"]["properties"]
    assert {key: properties[key]["default"] for key in training.YOUNGER} == training.YOUNGER
    config = completed(
        "models: {moe: {training: {router_losses: {z: 0.1}, trainable: router}}, "
        f"{TUNED}}}}}"
    )
    params = training.training_params(config, "moe")
    assert params["router_losses"] == {"z": 0.1}
    assert params["trainable"] == "router"
    assert training.training_params(config, "tuned")["init"] == {"checkpoint": "dense"}


def test_every_key_of_training_may_be_a_models_own() -> None:
    (branch,) = (b for b in SCHEMA["$defs"]["model"]["oneOf"] if b["required"] == ["train"])
    own = branch["properties"]["training"]["properties"]
    assert own == SCHEMA["properties"]["training"]["properties"]


def test_a_model_begins_from_scratch_or_with_another_of_its_seeds() -> None:
    config = completed(f"{{training: {{seeds: [0, 1]}}, models: {{{TUNED}, seeds: [1]}}}}}}")
    assert training.init_of(config, "dense") == ("scratch", None)
    assert training.init_of(config, "tuned") == ("checkpoint", "dense")
    assert config["models"]["tuned"]["train"] == config["models"]["dense"]["train"]
    assert training.trial_seed(config, "tuned") == 1  # its source may lack training's first


BAD = {
    "nothing for a mapping": ("training: null", ["training", "object"]),
    "twice the same seed": ("training: {seeds: [1, 1]}", ["training.seeds"]),
    "rate as text": ("training: {peak_lr: 5e-4}", ["training.peak_lr", "'5e-4'", "write 5.0e-4"]),
    "rates as text": ("training: {peak_lr: [1.0e-3, 5e-4]}", ["training.peak_lr.1", "5.0e-4"]),
    "rate as text of two lines": ('training: {peak_lr: "5e-4\\n"}', ["training.peak_lr"]),
    "zero rate": ("training: {peak_lr: 0}", ["training.peak_lr"]),
    "rate that is no number": ("training: {peak_lr: .nan}", ["training.peak_lr"]),
    "rate without end": ("training: {peak_lr: .inf}", ["training.peak_lr"]),
    "beta of 1": ("training: {betas: [0.9, 1.0]}", ["training.betas"]),
    "beta below 0": ("training: {betas: [-0.1, 0.9]}", ["training.betas"]),
    "own seeds": (
        "models: {moe: {training: {seeds: [1]}}}",
        ["models.moe.training.seeds", "models.moe.seeds"],
    ),
    "unknown key": ("models: {moe: {training: {rate: 1}}}", ["models.moe.training", "'rate'"]),
    "own rate as text": (
        "models: {moe: {training: {peak_lr: 5e-4}}}",
        ["models.moe.training.peak_lr", "write 5.0e-4"],
    ),
    "training of a checkpoint": (
        "models: {a: {load: gpt2, training: {}}}",
        ["models.a", "'training'"],
    ),
    "router loss": (
        "training: {router_losses: {y: 1}}",
        ["training.router_losses", "'y'", "z"],
    ),
    "router loss of a negative weight": (
        "training: {router_losses: {z: -1}}",
        ["training.router_losses.z", "-1"],
    ),
    "part": ("training: {trainable: head}", ["training.trainable", "'head'", "router"]),
    "routers of a dense model": (
        "training: {trainable: router}",
        ["models.dense", "training.trainable", "all"],
    ),
    "init": ("models: {moe: {init: {from: dense}}}", ["models.moe.init", "'from'", "checkpoint"]),
    "init with nobody": (
        "models: {moe: {init: {checkpoint: big}}}",
        ["models.moe.init.checkpoint", "'big'", "dense, moe"],
    ),
    "init with itself": ("models: {moe: {init: {checkpoint: moe}}}", ["models.moe.init", "'moe'"]),
    "init of another architecture": (
        "models: {moe: {init: {checkpoint: dense}}}",
        ["models.moe.init.checkpoint", "'dense' has ffn 512, this model 256", "like: dense"],
    ),
    "init with a checkpoint": (
        "{corpus: {tokenizer!: {load: gpt2}}, "
        "models: {a: {load: gpt2}, b: {like: dense, init: {checkpoint: a}}}}",
        ["models.b.init.checkpoint", "'a'", "not trained here"],
    ),
    "init of a seed that the source lacks": (
        f"models: {{{TUNED}, seeds: [3]}}}}",
        ["models.tuned.init.checkpoint", "seed 3", "'dense', which has 0", "models.tuned.seeds"],
    ),
    "init in a circle": (
        "models: {dense: {init: {checkpoint: b}}, b: {like: dense, init: {checkpoint: dense}}}",
        ["models.dense.init", "dense -> b -> dense"],
    ),
    "init in a circle elsewhere": (
        "models: {dense: {init: {checkpoint: b}}, a: {like: dense, init: {checkpoint: dense}}, "
        "b: {like: dense, init: {checkpoint: dense}}}",
        ["init", "circle", "dense -> b -> dense"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_training_is_refused_in_one_line_that_names_the_place(case: str) -> None:
    refused(*BAD[case])


def test_a_circle_is_named_from_a_model_outside_it_without_end() -> None:
    """A model that begins with one of a circle is itself in none: the walk must end all the same."""
    change = (
        "models: {a: {like: dense, init: {checkpoint: b}}, b: {like: dense, init: {checkpoint: c}}, "
        "c: {like: dense, init: {checkpoint: b}}}"
    )
    with pytest.raises(ConfigError, match="a -> b -> c -> b"):
        completed(change)
