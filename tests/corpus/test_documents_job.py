"""The job that reads a domain: the files that were planned, each as it is called."""

from __future__ import annotations

from pathlib import Path

from moediff.core import artifact
from snake import run_script


def test_the_job_reads_the_files_that_were_planned_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for name in ("a", "b[0]", "b0"):
        (tmp_path / f"own/{name}.txt").write_text(f"the text of {name}")
    settings = {
        "source": "files", "paths": ["**/*.txt"], "column": "text", "group": None, "group_pattern": None,
    }  # fmt: skip
    params = {
        "settings": settings, "splits": {"fit": 0.25, "validation": 0.1}, "most_bytes": None,
    }  # fmt: skip
    planned = ["own/a.txt", "own/b[0].txt"]  # own/b0.txt came later
    run_script(
        "corpus/documents", tmp_path, input=planned, output=["made.parquet"],
        params=params, wildcards={"domain": "own"},
    )  # fmt: skip
    table = artifact.read_parquet(tmp_path / "made.parquet")
    assert table["source"].to_list() == planned
    assert table["text"].to_list() == ["the text of a", "the text of b[0]"]
