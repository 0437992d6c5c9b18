"""What jobs ask for: more for more work and for each attempt, and enough for what was measured."""

from __future__ import annotations

import re
import shutil

import pytest

from configured import PAIR
from conftest import PRESETS, SCHEMA
from moediff.config import fits, resources
from moediff.config.complete import complete
from moediff.config.resources import STAGES, needs
from snake import Study
from workflow import ROOT, prepare


@pytest.fixture(scope="module")
def config() -> dict:
    return complete(PAIR, SCHEMA, PRESETS)


@pytest.mark.parametrize("stage", STAGES)
def test_more_work_and_each_attempt_ask_for_more(stage: str) -> None:
    once = needs(stage, "auto", 1000, 1000, 1e13)
    twice = needs(stage, "auto", 1000, 1000, 1e13, attempt=2)
    for name in ("mem_mb", "runtime"):
        assert twice[name] == pytest.approx(2 * once[name], abs=1)
        assert once[name] >= needs(stage, "auto")[name] > 0
    one = STAGES[stage]
    assert (once["mem_mb"] > needs(stage, "auto")["mem_mb"]) == (one.input_mb + one.weights > 0)


def test_needs_are_those_of_the_table_by_hand() -> None:
    # 2000 + 8 copies of 100 MB; 20 minutes + 10 for each 1e12 parameters x tokens; twice at the second try.
    assert needs("training", "auto", 0, 100, 3e12, attempt=2) == {
        "gpu": 1, "mem_mb": 5600, "runtime": 100,
    }  # fmt: skip


def test_a_gpu_is_asked_for_by_the_config_and_not_by_the_machine(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: pytest.fail("asked the machine"))
    assert [needs("training", device)["gpu"] for device in ("cpu", "auto", "cuda")] == [0, 1, 1]
    assert needs("documents", "cuda")["gpu"] == 0


# Most memory that a job of these two models took on two cores, in MB, and its minutes there.
MEASURED = {
    "training": (640, 2.8), "activations": (545, 0.2), "dictionaries": (490, 0.6),
    "analysis": (485, 0.25), "reruns": (700, 0.7), "components": (305, 0.1), "documents": (112, 0.1),
    "tokens": (190, 0.1), "tables": (390, 0.1),
}  # fmt: skip


def test_a_study_is_given_half_as_much_again_as_it_took(config: dict) -> None:
    (fit,) = (fit for fit in fits(config) if fit.member.comparison == "moe-dense")
    weights = {
        "training": resources.model_mb(config, "moe"),
        "activations": resources.model_mb(config, "moe"),
        "reruns": resources.model_mb(config, "moe") + resources.model_mb(config, "dense"),
        "dictionaries": resources.dictionary_mb(config, fit.member, fit.recipe),
        "analysis": resources.dictionary_mb(config, fit.member, fit.recipe),
    }
    assert weights["dictionaries"] == pytest.approx(2 * 4 * 2048 * 256 / 2**20)
    for stage, (memory, minutes) in MEASURED.items():
        asked = needs(stage, "cpu", 0, weights.get(stage, 0))
        assert asked["mem_mb"] >= 1.5 * memory, stage
        assert asked["runtime"] >= 1.5 * minutes, stage


def test_a_checkpoint_weighs_what_its_files_do_and_a_hub_id_is_not_known(
    config: dict, tmp_path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(3 * 2**20))
    config = config | {"models": {"here": {"load": str(tmp_path)}, "hub": {"load": "some/where"}}}
    assert resources.model_mb(config, "here") == 3
    assert resources.model_mb(config, "hub") == resources.UNKNOWN_MODEL_MB


ON_A_DEVICE = (
    "pick_device",
    "core.ranks import together",
    "model_and_texts",
    "sides_and_texts",
    "open_fit",
    "open_model",
    "open_rerun",
)


def test_a_rule_asks_for_a_gpu_where_its_script_uses_one_and_nowhere_else(tmp_path) -> None:
    study = Study(prepare(tmp_path / "study"))
    assert len(study.rules()) > 40
    for rule in study.rules():
        script = study.script(rule).read_text(encoding="utf-8")
        asks = "gpu" in rule.resources and rule.resources["gpu"].value > 0
        assert asks == any(name in script for name in ON_A_DEVICE), rule.name


def test_shards_of_all_models_ask_for_the_largest(config: dict) -> None:
    largest = resources.largest_shard(config, ["dense", "moe"])
    assert (
        largest["weights"]
        == resources.model_mb(config, "moe")
        > resources.model_mb(config, "dense")
    )
    assert largest["megabytes"] == pytest.approx(
        131_072 * 28 / 2**20
    )  # the default's shard, of one tokenizer
    assert largest["work"] == pytest.approx(largest["weights"] * 2**18 * 131_072)
    assert resources.largest_shard(config, [])["weights"] == 0


def test_every_rule_with_a_script_says_what_it_needs() -> None:
    for path in (ROOT / "rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        assert len(re.findall(r"\*\*needs\(", text)) == text.count("    script:"), path.name
        for stage in re.findall(r'\*\*needs\(\s*"(\w+)"', text):
            assert stage in STAGES
    assert "nvidia-smi" not in (ROOT / "rules/common.smk").read_text(encoding="utf-8")
