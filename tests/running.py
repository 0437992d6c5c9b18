"""Runs of Snakemake that a test stops amid the steps of a job."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import yaml

from moediff.core import preemption
from workflow import DICTIONARY, command, environment

# Script -> what is made by it, a change by which it has some seconds of steps to do, and its log.
JOBS = {
    "fit": (
        f"results/{DICTIONARY}/dictionary.safetensors",
        {"recipes": {"default": {"rows": 400_000}}},
        "results/logs/fit/moe-dense/moe.0_dense.0/default-0.log",
    ),
    "train": (
        "results/models/moe/seed-0/model.safetensors",
        {"training": {"epochs": 60}},
        "results/logs/train/moe-0.log",
    ),
}


def asked(folder: Path, name: str, *arguments: str) -> list[str]:
    """The command that makes a job's file, its change merged into the config."""
    target, change, _ = JOBS[name]
    (folder / "change.yaml").write_text(yaml.safe_dump(change))
    files = [str(folder / "config.yaml"), str(folder / "change.yaml")]
    return command(folder, target, *arguments, "--configfile", *files)


def again(folder: Path, name: str) -> subprocess.CompletedProcess:
    """The same command once more, to its end."""
    return subprocess.run(
        asked(folder, name), env=environment(), capture_output=True, text=True, check=False
    )


def made(folder: Path, name: str) -> dict[str, bytes]:
    """What a job made, by name."""
    place = (folder / JOBS[name][0]).parent
    names = ("*.safetensors", "*.parquet", "model.json")
    return {path.name: path.read_bytes() for glob in names for path in place.glob(glob)}


def unmade(folder: Path, name: str) -> None:
    shutil.rmtree((folder / JOBS[name][0]).parent)
    shutil.rmtree(folder / "results/state")


def made_evenly(folder: Path, name: str) -> dict[str, bytes]:
    """What a job makes that nothing stops, and nothing that others make of it."""
    unmade(folder, name)
    subprocess.run(asked(folder, name), env=environment(), capture_output=True, check=True)
    found = made(folder, name)
    assert len(found) > 2
    return found


def _heed() -> None:
    """Ignore no signal, whatever the tests were started with."""
    for number in preemption.SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def begun(folder: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen]:
    """A run that is amid the steps of its job; what is left of it ends with the block."""
    log = folder / JOBS[name][2]
    log.unlink(missing_ok=True)
    process = subprocess.Popen(
        asked(folder, name, *arguments), env=environment(), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=_heed,
    )  # fmt: skip
    members = []
    try:
        until = time.monotonic() + 120
        while not (log.exists() and re.search(r" (rows|tokens)$", log.read_text(), re.MULTILINE)):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(1)
        members = psutil.Process(process.pid).children(recursive=True)
        yield process
    finally:
        for member in [*members, process]:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.communicate()


def job_of(process: subprocess.Popen, name: str) -> psutil.Process:
    """The process of a job's script."""
    scripts = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.name().startswith("python") and child.cmdline()[-1].endswith(f".{name}.py")
    ]
    return scripts[-1]
