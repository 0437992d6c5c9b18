"""What runs again: after a change, an edit, a kill, damage; and what then comes out the same."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import pytest

from moediff.activations import caching
from moediff.activations.shards import Shard
from moediff.core import artifact
from snake import Study
from workflow import (
    DICTIONARY,
    ROOT,
    TINY,
    changed,
    command,
    environment,
    planned,
    prepare,
    run,
    shard_files,
)


@pytest.mark.slow
def test_only_what_a_change_concerns_runs_again(finished: Path, tmp_path: Path) -> None:
    assert planned(finished) == {}
    after_fit = {
        "fit", "metrics", "deletion", "gather_classes", "judge", "gather_fve", "matching", "examples",
        "splice", "affinity", "figures", "charts_dictionaries", "charts_models", "report",
        "stages", "all",
    }  # fmt: skip
    found = planned(finished, {"recipes": {"default": {"k": 7}}})
    assert set(found) - {"total"} == after_fit
    assert found["fit"] == 2
    found = planned(finished, {"plots": {"width": 500}})
    drawn = {f"charts_{job}" for job in ("training", "dictionaries", "models")}
    assert set(found) - {"total"} <= {*drawn, "figures", "report", "stages", "all"}
    found = planned(finished, {"corpus": {"domains": {"made": {"seed": 5}}}})
    assert found["documents"] == 1
    assert found["train"] == 2
    found = planned(finished, {"corpus": {"tokens": {"fit": 14_000}}})
    assert "train" not in found
    assert found["token_shards_fit"] == 1
    found = planned(finished, {"comparisons": {"dense": {"each": ["dense"]}}})
    assert found["fit"] == 1
    assert found["metrics"] == 1
    assert "cache" not in found


@pytest.mark.slow
def test_an_edited_or_a_new_text_file_is_read_again(copied: Path) -> None:
    file = copied / "own/003.txt"
    file.write_text(file.read_text(encoding="utf-8") + " One more line.", encoding="utf-8")
    assert planned(copied)["documents"] == 1
    file.touch()
    (copied / "own/new.txt").write_text("A new tale, told once. " * 30, encoding="utf-8")
    found = planned(copied)
    assert found["documents"] == 1
    assert found["report"] == 1


@pytest.mark.slow
def test_a_weight_reads_no_text_again_and_a_rate_more_is_one_trial_a_model(finished: Path) -> None:
    heavier = {"corpus": {"domains": {"made": {"weight": 1.05}}}}
    found = planned(finished, heavier)
    assert "documents" not in found
    assert found["token_shards_train"] == 1
    found = planned(finished, {"training": {"peak_lr": [3.0e-3, 6.0e-3, 1.0e-2]}})
    assert found["sweep_trial"] == 2


@pytest.mark.slow
def test_a_docstring_reruns_nothing(finished: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("scripts", "rules", "config", "profiles"):
        shutil.copytree(ROOT / name, tree / name)
    shutil.copy(ROOT / "Snakefile", tree)
    for module in (tree / "scripts").rglob("*.py"):
        module.write_text(module.read_text(encoding="utf-8").replace('"""', '"""Edited. ', 1))
    assert planned(finished, tree=tree) == {}


@pytest.mark.slow
def test_the_same_config_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    again = prepare(tmp_path / "again")
    assert run(again, "results/fve.json").returncode == 0
    for name in ("fve.json", f"{DICTIONARY}/dictionary.safetensors"):
        first, second = (folder / "results" / name for folder in (finished, again))
        assert first.read_bytes() == second.read_bytes(), name


@pytest.mark.slow
def test_dictionaries_that_share_a_job_are_those_fitted_alone(copied: Path) -> None:
    more = {"recipes": {"wide": TINY["recipes"]["default"] | {"features": 128, "seeds": [0, 1]}},
            "comparisons": {"moe-dense": {"recipes": ["default", "wide"]}}}  # fmt: skip
    folder = copied / "results" / "dictionaries" / "moe-dense" / "moe.0_dense.0"

    def made(change: dict) -> tuple[dict[str, bytes], str]:
        found = changed(copied, change, "results/fve.json")
        assert found.returncode == 0, found.stdout + found.stderr
        paths = sorted(folder.rglob("*.safetensors"))
        return {str(p.relative_to(folder)): p.read_bytes() for p in paths}, found.stderr

    alone, _ = made(more)
    assert len(alone) == 2 * 3  # at the end, and after three quarters
    shutil.rmtree(copied / "results" / "state")
    shutil.rmtree(folder)
    shared, said = made(more | {"dictionaries_per_job": 3})
    assert shared == alone
    assert "dictionaries_0" in said
    # One changed: its job runs again, the others in it are taken as they were.
    more["recipes"]["wide"]["seeds"] = [0]
    wide = TINY["recipes"]["default"] | {"features": 128, "k": 7, "seeds": [1]}
    more["recipes"]["wider"] = wide
    more["comparisons"]["moe-dense"]["recipes"].append("wider")
    some, _ = made(more | {"dictionaries_per_job": 3})
    assert {name: some[name] for name in alone if name in some} == alone
    log = (copied / "results/logs/fit/0-of-1-shared.log").read_text()
    assert log.count("resumed after step") == 2


@pytest.mark.slow
def test_shards_that_share_a_job_are_those_made_alone(copied: Path) -> None:
    folder = copied / "results/activations"
    alone = {path.relative_to(folder): path.read_bytes() for path in shard_files(copied)}
    assert len(alone) == 2 * 3
    shutil.rmtree(folder)
    targets = [str(Path("results/activations") / name) for name in alone]
    found = changed(copied, {"shards_per_job": 2}, *targets)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "rule cache_0" in found.stderr
    again = {path.relative_to(folder): path.read_bytes() for path in shard_files(copied)}
    assert again == alone
    assert not list((copied / "results/state").glob("shard-*/*"))


@pytest.mark.slow
def test_a_job_of_several_shards_goes_on_after_those_that_it_had_made(copied: Path) -> None:
    study = Study(copied, {**TINY, "shards_per_job": 3})
    (rule,) = (rule for rule in study.rules() if rule.name == "cache_0")
    job = study._job(rule, {})
    paths = [copied / path for path in job.snakemake.output]
    assert len(paths) == 3
    alone = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    real, made = caching.cache, []

    def stopped(*arguments: Any) -> int:
        if len(made) == 2:
            raise RuntimeError("the machine is switched off")
        made.append(arguments)
        return real(*arguments)

    with mock.patch.object(caching, "cache", stopped), pytest.raises(SystemExit):
        job.run()
    assert not any(path.exists() for path in paths)  # nothing is there before all is
    with mock.patch.object(caching, "cache", side_effect=real) as again:
        job.run()
    assert again.call_count == 1
    assert [path.read_bytes() for path in paths] == alone


@pytest.mark.slow
def test_shards_that_are_not_kept_go_when_all_is_made(finished: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "study")
    shutil.copytree(finished / "results/models", folder / "results/models")
    found = changed(folder, {"activations": {"keep": False}}, "all")
    assert found.returncode == 0, found.stderr
    assert shard_files(folder) == []
    one, two = (place / "results/fve.json" for place in (finished, folder))
    assert one.read_bytes() == two.read_bytes()
    again = changed(folder, {"activations": {"keep": False}}, "all")
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.slow
def test_a_killed_run_of_caching_goes_on_where_it_was(copied: Path) -> None:
    """SIGKILL to all of a run, three times: whole shards stay as they are, contents end the same."""

    def contents() -> dict[str, str]:
        found = {}
        for path in (copied / "results/activations/moe/seed-0/fit").glob("*.zarr.zip"):
            shard = Shard(path)
            arrays = (shard.read(name) for name in shard.facts["arrays"])
            found[path.name] = artifact.digest(*arrays)
        return found

    shutil.rmtree(copied / "results/activations/dense")
    target = "results/activations/moe/seed-0/fit.json"
    smaller = {"corpus": {"shard_tokens": 2_000}}
    assert changed(copied, smaller, target).returncode == 0
    wanted = contents()
    assert len(wanted) > 5
    shutil.rmtree(copied / "results/activations/moe")
    files = [str(copied / "config.yaml"), str(copied / "change.yaml")]
    for seconds in (7, 9, 11):
        process = subprocess.Popen(
            command(copied, target, "--nolock", "--configfile", *files), env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        whole = {path: path.stat().st_mtime_ns for path in shard_files(copied)}
    found = changed(copied, smaller, target, "--nolock")
    assert found.returncode == 0, found.stderr
    assert contents() == wanted
    # At most the jobs that Snakemake had not yet noted as done were done again.
    assert sum(path.stat().st_mtime_ns != time for path, time in whole.items()) <= 2
    assert not list((copied / "results/activations").rglob("*.partial"))


def place_of_data(path: Path) -> int:
    """Offset of a byte that holds content (a file of HDF5 has empty stretches)."""
    if path.suffix == ".h5":
        with h5py.File(path, "r") as file:
            return file["tokens"].id.get_chunk_info(0).byte_offset + 50
    return path.stat().st_size // 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "corpus/validation/00000.h5", "activations/moe/seed-0/validation/00000.zarr.zip",
        "corpus/own.parquet", f"{DICTIONARY}/dictionary.safetensors",
    ],
)  # fmt: skip
def test_a_damaged_shard_is_named_and_its_command_rebuilds_it(copied: Path, name: str) -> None:
    path = copied / "results" / name
    data = bytearray(path.read_bytes())
    data[place_of_data(path)] ^= 0xFF
    path.write_bytes(data)
    found = run(copied, "results/fve.json", *(["-R", "token_shards_fit"] if "own" in name else []))
    assert found.returncode != 0
    line = next(line for line in found.stderr.splitlines() if "error in" in line)
    assert name in line
    told = re.search(r"run: (rm '[^']+')", line).group(1)
    subprocess.run(told, shell=True, cwd=copied, check=True)
    found = run(copied, "results/fve.json")
    assert found.returncode == 0, found.stderr
