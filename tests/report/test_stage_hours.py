"""What each stage took, by Snakemake's benchmarks: sums by hand, files that are cut, the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from moediff.report import page, sections, stages
from snake import Study
from workflow import prepare

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"


def benchmark(
    results: Path, job: str, seconds: object, memory: object = "NA", cpu: object = "NA"
) -> None:
    path = results / f"benchmarks/{job}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEAD}\n{seconds}\t0:00:01\t{memory}\t1\t1\t1\t0.0\t0.1\t50.0\t{cpu}\n")


def test_jobs_are_summed_by_stage_those_that_took_longest_first(tmp_path: Path) -> None:
    benchmark(tmp_path, "tokenizer", 3.0, 512.0, 2.5)
    benchmark(tmp_path, "train/moe-0", 100.0, 1024.0, 180.0)
    benchmark(tmp_path, "train/a.b-0", 50.0, 2048.0, 20.0)
    benchmark(tmp_path, "fit/pair/moe.0_dense.0/default-0", 150.0, "NA", "NA")
    rows = stages.by_stage(tmp_path)
    assert rows == [
        {"stage": "fit", "jobs": 1, "seconds": 150.0, "cpu_seconds": None, "longest_seconds": 150.0,
         "peak_gb": None},
        {"stage": "train", "jobs": 2, "seconds": 150.0, "cpu_seconds": 200.0,
         "longest_seconds": 100.0, "peak_gb": 2.0},
        {"stage": "tokenizer", "jobs": 1, "seconds": 3.0, "cpu_seconds": 2.5, "longest_seconds": 3.0,
         "peak_gb": 0.5},
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", HEAD, f"{HEAD}\n", f"{HEAD}\n\x00\n", f"{HEAD}\n-\t-\t-\n"])
def test_a_benchmark_that_is_cut_is_no_error(tmp_path: Path, text: str) -> None:
    benchmark(tmp_path, "train/a", 5.0, 100.0, 4.0)
    (tmp_path / "benchmarks/train/b.tsv").write_text(text)
    (row,) = stages.by_stage(tmp_path)
    assert row["seconds"] == row["longest_seconds"] == 5.0


def test_the_page_is_in_minutes_or_in_hours(tmp_path: Path) -> None:
    benchmark(tmp_path, "train/moe-0", 90.0, 2048.0, 45.0)
    small = stages.shown(stages.by_stage(tmp_path), {"moediff": "0"})
    for part in (
        "<h1>What each stage took</h1>",
        "minutes of one core",
        ">1.5000<",
        ">0.7500<",
        ">2.0000<",
    ):
        assert part in small
    assert "hours" not in small.partition("</style>")[2]
    benchmark(tmp_path, "fit/a", 36_000.0)
    large = stages.shown(stages.by_stage(tmp_path), {"moediff": "0"})
    assert "longest job, hours" in large
    assert ">10.0000<" in large
    assert "<details" not in large  # it says nothing of what a study can and cannot say


def test_the_report_points_to_that_page(tmp_path: Path) -> None:
    job = Study(prepare(tmp_path)).job("results/benchmarks/stages.html")
    assert list(job.snakemake.input) == ["results/report.html"]
    benchmark(tmp_path / "results", "train/moe-0", 90.0)
    job.run()
    link = sections.took()
    assert link.count("href=") == 1
    (target,) = (part.partition('"')[0] for part in link.split('href="')[1:])
    made = tmp_path / "results/report.html"
    text = (made.parent / target).read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert page.text("none") not in text
    assert (tmp_path / "results/benchmarks/stages.json").exists()


def test_nothing_yet_is_a_page_that_says_so(tmp_path: Path) -> None:
    assert stages.by_stage(tmp_path) == []
    assert page.text("none") in stages.shown([], {"moediff": "0"})
