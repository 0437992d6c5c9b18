"""The profiles of clusters: planned on a machine without any, and on a real Slurm of this machine.

Slurm ends a study that is half done, while its jobs are cancelled, put back into the queue, near their time
limit and on a node that is lost, and its controller is killed. Meanwhile the plans are made.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
import yaml

from clusters import Script, Slurm, heed_interrupts, processes_of_jobs, scripts, until
from moediff.config import plugins
from workflow import ROOT, environment, prepare

FIT_LOG = "results/logs/fit/moe-dense/moe.0_dense.0/default-0.log"
CONFIG = ROOT / "config"
STUDIES = {  # folder of results -> config files
    "results": ["config"],
    "results/kinds": ["kinds"],
    "results/local-text": ["local-text"],
    "results/paper": ["paper"],
    "results/moe-lens": ["moe-lens"],
    "results/study": ["study"],
    "results/graded": ["config", "planted"],
}


def command(profile: str, *arguments: str, configs: list[Path], target: str) -> list[str]:
    return [
        sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--workflow-profile", profile,
        *arguments, "--configfile", *map(str, configs), "--", target,
    ]  # fmt: skip


# --- on a Slurm ---


@dataclass
class Watched:
    """A run by Slurm. What its scripts saw is read from their processes; some of them are disturbed."""

    folder: Path
    process: subprocess.Popen
    slurm: Slurm
    devices: dict[str, set[str | None]] = field(default_factory=lambda: defaultdict(set))
    disturbed: dict[str, str] = field(default_factory=dict)  # what was done -> to which job
    kept: bool = False  # whether the fit that ran out of time had a step to keep

    def watch(self) -> None:
        """Until the run ends."""
        while self.process.poll() is None:
            for script in scripts(self.folder):
                self.devices[script.name].add(script.environment.get("CUDA_VISIBLE_DEVICES"))
                self.disturb(script)
            time.sleep(0.05)

    def disturb(self, script: Script) -> None:
        if script.name == "train" and "requeued" not in self.disturbed:
            self.disturbed["requeued"] = script.job
            subprocess.run(["scontrol", "requeue", script.job], check=True)
        # The others of an array wait for its first.
        elif script.name == "cache" and "cancelled" not in self.disturbed:
            if (task := script.environment.get("SLURM_ARRAY_TASK_ID")) != "1":
                self.disturbed["cancelled"] = script.job
                array = script.environment.get("SLURM_ARRAY_JOB_ID")
                subprocess.run(["scancel", f"{array}_{task}" if array else script.job], check=True)
        elif script.name == "fit" and "ran out of time" not in self.disturbed:
            if self.is_amid_its_steps():
                time.sleep(0.3)  # into the steps: there are some for a second
                self.disturbed["ran out of time"] = script.job
                # There is little to do: it would be done meanwhile. Slurm continues what it tells to end.
                script.signal(signal.SIGSTOP)
                self.slurm.kill_controller()
                self.slurm.start_controller()
                self.slurm.shorten(script.job)
                until(script.has_ended, 120, "its end near its time limit")
                # On a fast machine it may have been stopped before its first step, and has none to keep.
                saved = (self.folder / "results/state").glob("dictionary-*/step-*.safetensors")
                self.kept = any(saved)
        elif script.name == "fit" and "lost" not in self.disturbed:
            self.disturbed["lost"] = script.job
            script.signal(signal.SIGSTOP)
            self.slurm.lose_node()

    def is_amid_its_steps(self) -> bool:
        said = (self.folder / FIT_LOG).read_text() if (self.folder / FIT_LOG).exists() else ""
        return re.search(" rows$", said, re.MULTILINE) is not None and "done in" not in said

    @cached_property
    def jobs(self) -> list[dict[str, str]]:
        """What Slurm remembers of every job, once the run has ended well."""
        assert self.process.wait() == 0, (self.folder / "run.log").read_text()
        shown = subprocess.check_output(["scontrol", "show", "job", "-o"], text=True)
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in shown.splitlines()]

    def of(self, rule: str) -> list[dict[str, str]]:
        """The jobs of a rule in the order in which they were submitted."""
        found = [
            job for job in self.jobs if re.match(rf"rule_{rule}(_wildcards|$)", job["Comment"])
        ]
        return sorted(found, key=lambda job: int(job["JobId"]))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm of one node with two pretended GPUs."""
    if not shutil.which("slurmd") or not shutil.which("munged"):
        pytest.skip("no slurmd or no munged here: tests/slurm/cluster.sh install")
    if os.geteuid():
        pytest.skip("only root can start a Slurm")
    if Path("/etc/slurm/slurm.conf").exists():
        pytest.skip("this machine has a Slurm of its own")
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def begun(
    slurm: Slurm, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """The run that is under way: one model of the study and all that is made of it."""
    folder = Path(
        shutil.copytree(finished, tmp_path_factory.mktemp("by-slurm") / "study", symlinks=True)
    )
    made = (
        "models/dense/seed-0",
        "activations/dense",
        "baselines/moe-dense",
        "dictionaries/moe-dense",
    )
    for name in (*made, "state"):
        shutil.rmtree(folder / "results" / name)
    (folder / "results/fve.json").unlink()
    (folder / FIT_LOG).unlink()
    # As many threads as where the study was run before, and a look at jobs more often than each 40 s.
    options = ["--set-threads", *(f"{rule}=1" for rule in ("train", "fit", "metrics"))]
    options += ["--slurm-init-seconds-before-status-checks", "1"]
    options += ["--slurm-array-jobs", "cache", "--jobs", "unlimited"]
    with open(folder / "run.log", "w") as log:
        process = subprocess.Popen(
            command("slurm", *options, configs=[folder / "config.yaml"], target="results/fve.json"),
            cwd=folder, env=environment(), stdout=log, stderr=log,
        )  # fmt: skip
    watched = Watched(folder, process, slurm)
    thread = threading.Thread(target=watched.watch)
    thread.start()
    yield watched
    if process.poll() is None:
        process.kill()
    thread.join()


@pytest.mark.slurm
def test_a_run_by_slurm_begins(begun: Watched) -> None:
    assert begun.process.poll() is None


# --- without a cluster ---


class Empty(BaseHTTPRequestHandler):
    """An object store whose one bucket holds nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # by which every answer in two parts takes 40 ms

    def do_HEAD(self) -> None:  # of the bucket, or of an object
        self.answer(200 if self.path.count("/") == 1 else 404, b"")

    def do_GET(self) -> None:  # what a folder holds
        self.answer(200, b"<ListBucketResult/>")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with text, and the environment of a machine that has no command of a cluster."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "text").mkdir()
    for name in ("code", "science", "stories"):
        table = pl.DataFrame({"text": ["a"], "source": ["b"]})
        table.write_parquet(folder / f"text/{name}.parquet")
    (folder / "bin").mkdir()
    for name in ("sh", "bash", "which"):
        (folder / "bin" / name).symlink_to(shutil.which(name))
    store = ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=store.serve_forever).start()
    yield (
        folder,
        environment()
        | {
            "PATH": str(folder / "bin"),
            "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": f"http://127.0.0.1:{store.server_port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
        },
    )
    store.shutdown()
    store.server_close()


@pytest.mark.parametrize("profile", plugins.PLUGINS)
@pytest.mark.parametrize("results", STUDIES)
def test_every_config_is_planned_where_no_cluster_is(
    profile: str, results: str, bare: tuple[Path, dict[str, str]]
) -> None:
    folder, env = bare
    assert not any(shutil.which(name, path=env["PATH"]) for name in ("sbatch", "kubectl", "qsub"))
    configs = [CONFIG / f"{name}.yaml" for name in STUDIES[results]]
    target = f"{results}/fve.json"
    if profile == "kubernetes" and results != "results":
        # The store is asked three times for every object that it lacks, a minute for a large study.
        config = yaml.safe_load(configs[0].read_text(encoding="utf-8"))
        seed = config["training"].get("seeds", [0])[0]
        target = f"{results}/activations/{next(iter(config['models']))}/seed-{seed}/validation.json"
        (folder / "few.yaml").write_text("corpus: {shard_tokens: 200_000_000}\n")
        configs.append(folder / "few.yaml")
    plan = command(profile, "-n", configs=configs, target=target)
    found = subprocess.run(plan, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    jobs = re.findall(
        r"\nrule (\w+):\n(.*?)(?=\n\[|\nJob stats)", found.stdout + found.stderr, re.S
    )
    asked = {rule: re.search(r"resources: (.*)", body)[1] for rule, body in jobs}
    assert len(asked) >= 8
    assert any(name.startswith("train") and "gpu=1" in words for name, words in asked.items())
    assert ("gpu=" in asked["tokenizer"]) == (profile == "generic")
    kubernetes = all("gpu_manufacturer=nvidia, scale=0" in words for words in asked.values())
    assert kubernetes == (profile == "kubernetes")


def test_every_config_of_the_project_is_among_these() -> None:
    parts = {"claims", "presets", "schema"}
    assert {path.stem for path in CONFIG.glob("*.yaml")} - parts == set().union(*STUDIES.values())


# Hides the plugins from Python, as if they had never been installed.
HIDING = """
import importlib.metadata as metadata, pkgutil
version, modules = metadata.version, pkgutil.iter_modules
def hidden(name): return name.replace("-", "_").startswith(("snakemake_executor_", "snakemake_storage_"))
def of(name):
    if hidden(name): raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = of
pkgutil.iter_modules = lambda *a, **k: (m for m in modules(*a, **k) if not hidden(m.name))
"""


@pytest.mark.parametrize("profile", plugins.PLUGINS)
def test_without_its_plugin_a_profile_ends_with_one_line(profile: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    plan = command(profile, "-n", configs=[CONFIG / "config.yaml"], target="results/fve.json")
    found = subprocess.run(plan, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    using, line = found.stderr.splitlines()
    assert using.startswith("Using workflow specific profile")
    assert line.startswith(f"profile {profile}: {plugins.INSTALL}")


# --- on a Slurm, again ---


@pytest.mark.slurm
def test_the_result_of_slurm_is_that_of_one_machine(begun: Watched, finished: Path) -> None:
    assert {"train", "cache", "fit", "metrics", "gather_fve"} <= {
        re.match(r"rule_(.+?)(_wildcards|$)", job["Comment"])[1] for job in begun.jobs
    }
    made, local = (folder / "results/fve.json" for folder in (begun.folder, finished))
    assert made.read_bytes() == local.read_bytes()


@pytest.mark.slurm
def test_a_rule_with_a_gpu_sees_one_and_another_none(begun: Watched) -> None:
    assert begun.jobs
    for name in ("train", "cache", "fit"):
        assert begun.devices[name] <= {"0", "1"}, name
        assert begun.devices[name], name
    assert begun.devices["principal_components"] <= {None, "NoDevFiles"}


@pytest.mark.slurm
def test_shards_are_one_array_of_equal_jobs(begun: Watched) -> None:
    members = [job for job in begun.of("cache") if "ArrayTaskId" in job]
    assert len(members) == 3
    for name in ("ArrayJobId", "MinMemoryNode", "TimeLimit", "TresPerJob"):
        assert len({job[name] for job in members}) == 1, name
    assert begun.devices["cache"] == {"0", "1"}


@pytest.mark.slurm
def test_a_cancelled_job_is_tried_again_with_twice_the_memory(begun: Watched) -> None:
    (lost,) = (job for job in begun.of("cache") if job["JobState"] == "CANCELLED")
    assert lost["JobId"] == begun.disturbed["cancelled"]
    assert "SLURM status is: 'CANCELLED'" in (begun.folder / "run.log").read_text()
    others, again = begun.of("cache")[:-1], begun.of("cache")[-1]
    assert [job["JobState"] for job in [*others, again]].count("COMPLETED") == len(others) == 3
    before, after = (int(job["MinMemoryNode"].rstrip("M")) for job in (lost, again))
    assert after == pytest.approx(2 * before, abs=10)
    assert (lost["TimeLimit"], again["TimeLimit"]) == ("00:20:00", "00:40:00")


@pytest.mark.slurm
def test_a_job_put_back_into_the_queue_ends_well_and_is_no_new_one(begun: Watched) -> None:
    (job,) = begun.of("train")
    assert job["JobId"] == begun.disturbed["requeued"]
    assert (job["Restarts"], job["JobState"]) == ("1", "COMPLETED")


@pytest.mark.slurm
def test_a_job_near_its_time_limit_is_told_to_end_and_tried_again(begun: Watched) -> None:
    """It lived on while the controller was killed, and started again, before."""
    ended, again, *_ = begun.of("fit")
    assert ended["JobId"] == begun.disturbed["ran out of time"]
    assert ended["JobState"] == "FAILED"
    assert ended["TimeLimit"] < "00:10:00"
    assert again["TimeLimit"] == "00:40:00"


@pytest.mark.slurm
def test_a_job_of_a_lost_node_starts_again_by_itself_and_goes_on_at_its_step(
    begun: Watched,
) -> None:
    """Where the node is back within the minute, what was still to be told to it may end the job once more."""
    _, lost, *_ = begun.of("fit")
    assert lost["JobId"] == begun.disturbed["lost"]
    assert lost["Restarts"] == "1"
    assert begun.of("fit")[-1]["JobState"] == "COMPLETED"
    # The step at which the job before it was told to end.
    steps = re.findall(r"resumed after step (\d+)", (begun.folder / FIT_LOG).read_text())
    assert bool(steps) == begun.kept
    assert all(int(step) > 0 for step in steps)


@pytest.mark.slurm
def test_the_generic_profile_runs_a_job(slurm: Slurm, finished: Path, tmp_path: Path) -> None:
    config = prepare(tmp_path / "study") / "config.yaml"
    run = command("generic", configs=[config], target="results/corpus/made.parquet")
    found = subprocess.run(
        run, cwd=config.parent, env=environment(), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    made, local = (folder / "results/corpus/made.parquet" for folder in (config.parent, finished))
    assert made.read_bytes() == local.read_bytes()


@pytest.mark.slurm
def test_what_slurm_forgets_is_waited_for_and_made_by_the_same_command(
    slurm: Slurm, finished: Path, tmp_path: Path
) -> None:
    config = prepare(tmp_path / "study") / "config.yaml"
    options = ["--slurm-init-seconds-before-status-checks", "1"]
    run = command("slurm", *options, configs=[config], target="results/corpus/made.parquet")
    with open(config.parent / "run.log", "w") as log:
        process = subprocess.Popen(
            run, cwd=config.parent, env=environment(), stdout=log, stderr=log,
            preexec_fn=heed_interrupts,
        )  # fmt: skip
    until(lambda: bool(processes_of_jobs()), 60, "a job that runs")
    slurm.forget_jobs()
    time.sleep(8)  # several looks at the jobs
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    again = subprocess.run(
        run, cwd=config.parent, env=environment(), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    made, local = (folder / "results/corpus/made.parquet" for folder in (config.parent, finished))
    assert made.read_bytes() == local.read_bytes()
