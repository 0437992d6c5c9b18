"""Results in a bucket of an object store: the bytes of a local run, whatever is lost on the way."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from buckets import BUCKET, KEYS, Bucket, bucket
from workflow import DICTIONARY, command, environment, prepare, run

FVE, METRICS = "results/fve.json", f"results/{DICTIONARY}/metrics.json"
# Not there when the run begins: of each kind of job that makes rows, a dictionary and numbers one.
UNMADE = (
    "results/activations/dense/seed-0/validation", "results/dictionaries/moe-dense/", FVE,
)  # fmt: skip
APART = ("logs", "benchmarks", "state")  # no two runs have the same


@dataclass
class Stored:
    """A study whose results go to a folder of a bucket."""

    folder: Path
    bucket: Bucket
    under: str

    def asked(self, *targets: str) -> list[str]:
        return [
            *command(self.folder), "--default-storage-provider", "s3", "--default-storage-prefix",
            f"s3://{BUCKET}/{self.under}", "--configfile", str(self.folder / "config.yaml"), "--", *targets,
        ]  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        return environment() | KEYS | {"SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": self.bucket.endpoint}

    def run(self, *targets: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.asked(*targets), env=self.environment, capture_output=True, text=True, check=False
        )


def jobs(found: subprocess.CompletedProcess) -> dict[str, int]:
    """What a run did or would do, by rule."""
    told = (found.stdout + found.stderr).split("Job stats:")[1]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", told, re.MULTILINE)}


@pytest.fixture(scope="module")
def store() -> Iterator[Bucket]:
    with bucket() as found:
        yield found


@pytest.fixture(scope="module")
def stored(finished: Path, store: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """A study of which the bucket holds one half, and the disk its text."""
    folder = tmp_path_factory.mktemp("stored")
    shutil.copytree(finished / "own", folder / "own")  # as old as they are
    shutil.copy(finished / "config.yaml", folder)
    files = [path for path in (finished / "results").rglob("*") if path.is_file()]
    names = {path: path.relative_to(finished).as_posix() for path in files}
    there = [
        path
        for path, name in names.items()
        if not name.startswith(UNMADE) and name.split("/")[1] not in APART and path.name[0] != "."
    ]
    store.upload(finished, there, "study")
    return Stored(folder, store, "study")


@pytest.fixture(scope="module")
def cut_off(stored: Stored) -> str:
    """What the run said that makes the rest, whose bucket is out of reach from the middle of a fit on."""
    log = f".snakemake/storage/s3/{BUCKET}/study/results/logs/fit/moe-dense/moe.0_dense.0/default-0.log"
    said = stored.folder / "run.log"
    with open(said, "w") as told:
        process = subprocess.Popen(stored.asked(FVE), env=stored.environment, stderr=told)
    try:
        until = time.monotonic() + 600
        while not (stored.folder / log).exists():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        with stored.bucket.out_of_reach():
            assert process.wait(timeout=600) != 0
    finally:
        process.kill()
    assert f"results/{DICTIONARY}/dictionary.safetensors" not in stored.bucket.objects("study")
    return said.read_text()


@pytest.fixture(scope="module")
def made(stored: Stored, cut_off: str) -> subprocess.CompletedProcess:
    """The same command once more."""
    return stored.run(FVE)


def test_texts_are_read_where_they_lie_and_what_is_made_of_them_goes_to_the_bucket(
    finished: Path, store: Bucket, tmp_path: Path
) -> None:
    study = Stored(prepare(tmp_path / "study"), store, "texts")
    made = "results/corpus/own.parquet"
    found = study.run(made)
    assert found.returncode == 0, found.stderr
    assert store.objects("texts")[made] == (finished / made).read_bytes()
    assert not (study.folder / made).exists()


def test_a_bucket_out_of_reach_is_one_line_before_any_job(store: Bucket, tmp_path: Path) -> None:
    study = Stored(prepare(tmp_path / "study"), store, "nowhere")
    with store.out_of_reach():
        found = study.run(FVE)
    assert found.returncode == 1
    _, line = found.stderr.splitlines()
    assert line.startswith("config error: s3://moediff/nowhere: cannot be reached: ")
    assert line.endswith(
        "; see to the network, the endpoint and the keys, then run the same command again"
    )


@pytest.mark.slow
def test_a_bucket_lost_amid_a_run_ends_it_and_the_same_command_goes_on_to_the_same_bytes(
    finished: Path, stored: Stored, cut_off: str, made: subprocess.CompletedProcess
) -> None:
    """What a job keeps for itself lies on the disk: the fit, made again, begins at its last step."""
    assert "Could not connect to the endpoint URL" in cut_off
    assert made.returncode == 0, made.stderr
    assert re.search(r"resumed after step [1-9]", made.stderr)
    there = {
        name: content
        for name, content in stored.bucket.objects("study").items()
        if name.split("/")[1] not in APART
    }
    assert {name for name in there if name.startswith(UNMADE)} > {FVE, METRICS}
    for name, content in there.items():
        assert content == (finished / name).read_bytes(), name
    again = stored.run(FVE)
    assert "Nothing to be done" in again.stdout + again.stderr
    # Numbers could be seen in the bucket before this folder had a note of its claims.
    note = json.loads((stored.folder / "results/.claims-fixed.json").read_text())
    assert note["claims"] is None


@pytest.mark.slow
def test_an_altered_object_is_named_and_of_a_deleted_one_no_more_is_made_than_on_a_disk(
    finished: Path, stored: Stored, made: subprocess.CompletedProcess, copied: Path
) -> None:
    objects = stored.bucket.objects("study")
    stored.bucket.put(f"study/{METRICS}", objects[METRICS][:-9])
    found = stored.run(FVE)
    assert found.returncode != 0
    (line,) = [line for line in found.stderr.splitlines() if "error in gather_fve" in line]
    removed = re.search(r"To rebuild it, run: aws s3 rm 's3://moediff/(.*?)'", line)[1]
    assert removed == f"study/{METRICS}"
    stored.bucket.delete(removed)
    found = stored.run(FVE)
    assert found.returncode == 0, found.stderr
    for name in (FVE, METRICS):  # the first was removed with the job that failed
        (copied / name).unlink()
    local = run(copied, "-n", FVE)
    assert jobs(found) == jobs(local) == {"metrics": 1, "gather_fve": 1, "total": 2}
    objects = stored.bucket.objects("study")
    assert all(objects[name] == (finished / name).read_bytes() for name in (FVE, METRICS))
