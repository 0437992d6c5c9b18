"""Snakemake's answers that are replaced: the same for every rule and file, and fewer steps for them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import yaml
from snakemake import (
    api,  # noqa: F401  before its DAG, which alone cannot be imported
    common,
    rules,
    script,
)
from snakemake.dag import DAG, ScriptProcessor
from snakemake.io import IOFile
from snakemake.iocontainers import InputFiles
from snakemake.rules import Rule

from moediff.config import planning
from snake import Study
from workflow import TINY, prepare, snakemake

ONE = {
    **TINY,
    "comparisons": {"moe": {"each": ["moe"]}},
    "recipes": {"default": {**TINY["recipes"]["default"], "threshold_rows": 100}},
}


def with_shards(fit: int, **more: object) -> dict:
    """The tiny study of one SAE, with so many shards to fit it on and one to measure it on."""
    tokens = {"train": 16_000, "fit": 640 * fit, "validation": 640}
    return {**ONE, **more, "corpus": {**TINY["corpus"], "shard_tokens": 640, "tokens": tokens}}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(prepare(tmp_path_factory.mktemp("planning")), with_shards(5))


def test_every_rule_makes_the_files_that_it_made_before(study: Study) -> None:
    made = sorted({str(path) for rule in study.workflow.rules for path in rule.products()})
    filled = [re.sub(r"{[^{}]*}", "0", path) for path in made]
    shards = [f"results/activations/moe/seed-0/fit/{n:05d}.zarr.zip" for n in range(5)]
    others = [path + "x" for path in filled] + ["x" + path for path in filled] + ["", "results"]
    found = 0
    for rule in study.workflow.rules:
        for path in [*made, *filled, *shards, *others]:
            makes = Rule.is_producer(rule, path)
            assert makes == Rule.is_producer.replaced(rule, path), (rule, path)
            found += makes
    assert found > len(study.workflow.rules)


def test_a_rule_of_many_files_is_matched_with_none_of_them(study: Study) -> None:
    rule = study.workflow.get_rule("token_shards_fit")
    with mock.patch("snakemake.io._IOFile.match", side_effect=AssertionError):
        assert rule.is_producer("results/corpus/fit/00004.h5")
        assert not rule.is_producer("results/corpus/fit/00005.h5")


@pytest.mark.parametrize("until", [(), ("fit",), ("train",)])
@pytest.mark.parametrize("files", [(), ("a",), ("c",)])
@pytest.mark.usefixtures("study")
def test_until_names_the_same_jobs(until: tuple[str, ...], files: tuple[str, ...]) -> None:
    dag = SimpleNamespace(untilrules=set(until), untilfiles=set(files))
    job = SimpleNamespace(rule=SimpleNamespace(name="fit"), output=["a", "b"])
    assert DAG.in_until(dag, job) == DAG.in_until.replaced(dag, job)
    assert DAG.in_until(dag, job) == ("fit" in until or "a" in files)


@pytest.mark.parametrize("count", [0, 1, planning.FEW - 1, planning.FEW, 100])
def test_an_input_is_found_by_its_name(study: Study, count: int) -> None:
    rule = study.workflow.get_rule("gather_fve")
    paths = [IOFile(f"shards/{n}", rule=rule) for n in range(count)]
    inputs = InputFiles(paths)
    asked = [*paths, *map(str, paths), "shards", "", "shards/100", IOFile("shards/101", rule=rule)]
    assert [path in inputs for path in asked] == [path in list(inputs) for path in asked]
    inputs.append("shards/100")
    assert "shards/100" in inputs


@pytest.mark.usefixtures("study")
def test_many_inputs_are_not_compared_one_by_one() -> None:
    inputs = InputFiles(f"shards/{n}" for n in range(100))
    last = "".join(["shards", "/99"])  # not the same object
    assert last in inputs
    with mock.patch.object(InputFiles, "__iter__", side_effect=AssertionError):
        assert last in inputs


def test_a_script_is_opened_once_for_a_rule_and_each_time_where_wildcards_name_it(
    study: Study,
) -> None:
    dag = SimpleNamespace(workflow=study.workflow)
    rule = study.workflow.get_rule("cache")

    def opened(path: str) -> int:
        named = mock.Mock(script=path, basedir=rule.basedir)  # which can stand in a set
        one = {"wildcards": SimpleNamespace(name="cache"), "params": SimpleNamespace()}
        jobs = [SimpleNamespace(is_script=True, rule=named, **one) for _ in range(3)]
        processor = ScriptProcessor(dag)
        with mock.patch.object(script, "get_source", side_effect=script.get_source) as source:
            for job in jobs:
                processor.process_job(job)
        return source.call_count

    assert opened("../scripts/activations/cache.py") == 1
    assert opened("../scripts/activations/{wildcards.name}.py") == 3


@pytest.mark.usefixtures("study")
def test_functions_have_the_parameters_that_they_have() -> None:
    def one(wildcards: object, input: object) -> None: ...

    assert rules.get_function_params is common.get_function_params
    assert common.get_function_params(one) == inspect.signature(one).parameters
    common.overwrite_function_params(two := lambda *rest: rest, ["wildcards"])
    assert common.get_function_params(two) == ["wildcards"]


def test_nothing_is_replaced_twice_nor_in_a_version_that_was_not_read(study: Study) -> None:
    before = Rule.is_producer, DAG.in_until, ScriptProcessor.process_job, rules.get_function_params
    planning.lighten(study.workflow, temporary=False)
    with mock.patch.object(planning, "READ", "0.0"):
        planning.lighten(SimpleNamespace(), temporary=False)  # looks at nothing of it
    assert before == (
        Rule.is_producer, DAG.in_until, ScriptProcessor.process_job, rules.get_function_params,
    )  # fmt: skip


def test_temporary_files_are_looked_for_where_there_are_some(study: Study, tmp_path: Path) -> None:
    assert study.workflow.storage_settings.notemp
    settings = {**with_shards(5), "activations": {"keep": False}}
    assert not Study(prepare(tmp_path / "kept"), settings).workflow.storage_settings.notemp


def test_sizes_of_inputs_are_snakemakes(study: Study, tmp_path: Path) -> None:
    sizes = 0, 1, 4095, 3_000_001
    paths = [tmp_path / str(size) for size in sizes]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(bytes(size))
    rule = study.workflow.get_rule("gather_fve")
    found = InputFiles([IOFile(str(path), rule=rule) for path in paths])
    ours = study.workflow.globals["megabytes_of"]
    assert ours(found) == pytest.approx(found.size_mb, rel=1e-12)
    paths[1].unlink()
    with pytest.raises(FileNotFoundError) as caught:
        ours(found)
    assert caught.value.filename in found  # by which Snakemake knows that it is not made yet


def test_a_plan_grows_by_the_same_jobs_and_edges_with_every_shard(tmp_path: Path) -> None:
    """Per shard one job, which asks for its tokens, its model and hook points; it is asked for by the
    manifest, the fit and the principal components."""
    folder = prepare(tmp_path / "study")

    def counted(shards: int) -> tuple[int, int]:
        (folder / "config.yaml").write_text(yaml.safe_dump(with_shards(shards)))
        config = str(folder / "config.yaml")
        found = snakemake(folder, "results/fve.json", "--dag", "dot", "--configfile", config)
        assert found.returncode == 0, found.stderr
        return found.stdout.count("label ="), found.stdout.count("->")

    jobs, edges = zip(counted(10), counted(30), strict=True)
    assert jobs[1] - jobs[0] == 20
    assert edges[1] - edges[0] == 20 * (3 + 3)
