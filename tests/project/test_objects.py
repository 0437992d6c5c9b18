"""What lets results lie in an object store: single files, the user's own on the disk, messages by object."""

from __future__ import annotations

from pathlib import Path

import pytest
from snakemake.io import is_flagged

from moediff.core.errors import DamagedError
from moediff.job import of_objects
from snake import Study
from workflow import prepare

COPY = ".snakemake/storage/s3/bucket/study/results/"


def test_only_files_are_outputs_since_a_folder_that_lacks_an_object_counts_as_whole(
    tmp_path: Path,
) -> None:
    rules = Study(prepare(tmp_path)).rules()
    outputs = [output for rule in rules for output in rule.output]
    assert len(outputs) > 60
    assert not [str(output) for output in outputs if is_flagged(output, "directory")]


def test_the_users_own_files_are_read_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study(prepare(tmp_path))
    (rule,) = (rule for rule in study.rules() if rule.name == "documents")
    (function,) = rule.input
    found = function(study.job("results/corpus/own.parquet").snakemake.wildcards)
    assert len(found) == 150
    assert all(is_flagged(path, "local") for path in found)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            str(DamagedError(f"{COPY}fve.json", "cut")),
            "s3://bucket/study/results/fve.json: cut; it was changed or cut after it was made. To rebuild "
            "it, run: aws s3 rm 's3://bucket/study/results/fve.json' and then the same snakemake "
            "command again",
        ),
        (
            f"run: rm -r '{COPY}activations' and",
            "run: aws s3 rm --recursive 's3://bucket/study/results/activations' and",
        ),
        ("run: rm 'results/fve.json' and", "run: rm 'results/fve.json' and"),
    ],
)
def test_a_message_names_objects_and_not_their_local_copies(message: str, told: str) -> None:
    assert of_objects(message) == told
