"""Histories as event files, read back by TensorBoard itself; of running jobs, by their checkpoints."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from moediff.config.layout import PATHS, path
from moediff.core import artifact, checkpoint
from moediff.core.errors import UserError
from moediff.report import events
from moediff.training import history
from snake import Study
from workflow import prepare

MODEL = "models/moe/seed-0"
FIT = "dictionaries/pair/moe.0_dense.0/default/seed-1"


def trained(steps: int) -> list[dict]:
    """A history of a model."""
    return [
        row
        for step in range(1, steps + 1)
        for row in [
            *history.schedule_rows(step, 100 * step, 1e-3 / step),
            {"step": step, "split": "validation", "domain": "code", "name": "cross_entropy",
             "value": 5.0 - step / 8},
        ]
    ]  # fmt: skip


def fitted(steps: int) -> list[dict]:
    """A history of a dictionary."""
    return [
        {"step": step, "rows": 256 * step, "fve": 1 - 0.5**step, "l0": 6.0, "dead_share": 0.25,
         "learning_rate": 1e-3}
        for step in range(1, steps + 1)
    ]  # fmt: skip


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every tag of a run, as TensorBoard reads them."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    read = accumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def store(results: Path, run: str, rows: list[dict], schema: dict | None = None) -> None:
    artifact.write_parquet(results / run / "history.parquet", pl.DataFrame(rows, schema=schema), {})


def save(results: Path, name: str, step: int, rows: list[dict], folder: str = "train-0") -> None:
    """A checkpoint of a job that is not done."""
    facts = {"name": name, "history": rows}
    checkpoint.save(results / "state" / folder, step, {"w": torch.ones(3)}, facts)


needs_tensorboard = pytest.mark.skipif(bool(events.lacking()), reason=events.INSTALL)


@needs_tensorboard
def test_a_model_s_history_is_read_back(tmp_path: Path) -> None:
    events.write(tmp_path / "events.out.tfevents.0.moediff", trained(3))
    assert scalars(tmp_path) == {
        "tokens/train/all": [(1, 100.0), (2, 200.0), (3, 300.0)],
        "learning_rate/train/all": [(n, pytest.approx(1e-3 / n)) for n in (1, 2, 3)],
        "cross_entropy/validation/code": [(n, 5.0 - n / 8) for n in (1, 2, 3)],
    }


@needs_tensorboard
def test_a_dictionary_s_history_is_read_back_and_what_is_not_finite_left_out(
    tmp_path: Path,
) -> None:
    rows = [*fitted(2), fitted(3)[-1] | {"fve": float("nan")}]
    events.write(tmp_path / "events.out.tfevents.0.moediff", rows)
    found = scalars(tmp_path)
    assert set(found) == {"rows", "fve", "l0", "dead_share", "learning_rate"}
    assert found["fve"] == [(1, 0.5), (2, 0.75)]
    assert found["rows"] == [(1, 256.0), (2, 512.0), (3, 768.0)]


@needs_tensorboard
def test_equal_histories_are_equal_bytes_and_longer_ones_begin_with_shorter() -> None:
    assert events.encoded(trained(5)) == events.encoded(trained(5))
    assert events.encoded(trained(5)).startswith(events.encoded(trained(4)))
    assert events.encoded(trained(5)) != events.encoded(fitted(5))


@needs_tensorboard
def test_a_job_writes_the_event_file_of_every_history(tmp_path: Path) -> None:
    job = Study(prepare(tmp_path)).job(f"results/{path('events', run=MODEL)}")
    histories = list(job.snakemake.input)
    assert len(histories) == len(job.snakemake.output) == 4
    for name in histories:
        rows, schema = (trained(2), history.COLUMNS) if "models" in name else (fitted(2), None)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        artifact.write_parquet(tmp_path / name, pl.DataFrame(rows, schema=schema), {})
    job.run()
    for made in job.snakemake.output:
        tag = "cross_entropy/validation/code" if "models" in made else "fve"
        assert len(scalars((tmp_path / made).parent)[tag]) == 2
    # Histories of models that were trained before these were long tables.
    wide = pl.DataFrame({"step": [5], "split": ["validation"], "domain": ["all"], "tokens": [40],
                         "cross_entropy": [4.0], "balance_loss": [0.0],
                         "learning_rate": [0.1]})  # fmt: skip
    artifact.write_parquet(tmp_path / "wide.parquet", wide, {})
    assert {row["name"] for row in events.rows_of(tmp_path / "wide.parquet")} == {
        "tokens", "learning_rate", "cross_entropy",
    }  # fmt: skip


@needs_tensorboard
def test_a_running_job_is_followed_by_its_checkpoints_and_its_file_only_grows(
    tmp_path: Path,
) -> None:
    results, folder = tmp_path / "results", tmp_path / "events"
    save(results, "moe.0", 2, trained(2))
    save(results, "pair/moe.0_dense.0/default, seed 1", 3, fitted(3), "dictionary-0")
    save(results, "moe at 0.003", 1, trained(1), "trial-0")
    followed = events.Followed(results, folder)
    followed.follow()
    assert set(scalars(folder / MODEL)) == {
        "tokens/train/all", "learning_rate/train/all", "cross_entropy/validation/code"
    }  # fmt: skip
    assert len(scalars(folder / FIT)["fve"]) == 3
    assert len(scalars(folder / "models/moe/sweep/lr-0.003")["tokens/train/all"]) == 1
    file = folder / MODEL / Path(PATHS["events"]).name
    before, node = file.read_bytes(), file.stat().st_ino
    save(results, "moe.0", 4, trained(4))
    followed.follow()
    assert file.read_bytes().startswith(before)
    assert file.stat().st_ino == node  # the file that TensorBoard has open
    store(results, MODEL, trained(6), history.COLUMNS)  # the job is done
    followed.follow()
    assert file.stat().st_ino == node
    assert len(scalars(folder / MODEL)["tokens/train/all"]) == 6
    assert file.read_bytes() == events.encoded(trained(6))
    times = file.stat().st_mtime_ns
    followed.follow()
    events.Followed(results, folder).follow()  # another one, later
    assert file.stat().st_mtime_ns == times


@needs_tensorboard
def test_a_run_that_began_anew_replaces_its_file(tmp_path: Path) -> None:
    results, folder = tmp_path / "results", tmp_path / "events"
    store(results, FIT, fitted(3))
    events.Followed(results, folder).follow()
    other = [row | {"fve": 0.25} for row in fitted(2)]
    store(results, FIT, other)
    events.Followed(results, folder).follow()
    assert scalars(folder / FIT)["fve"] == [(1, 0.25), (2, 0.25)]


@needs_tensorboard
def test_what_is_cut_or_of_another_name_is_passed_over(tmp_path: Path) -> None:
    results = tmp_path / "results"
    save(results, "moe.0", 1, trained(1))
    save(results, "who knows", 1, trained(1), "other-0")
    cut = results / "state/dictionary-1/step-000000001.safetensors"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(b"\x00" * 40)
    store(results, FIT, fitted(1))
    whole = (results / FIT / "history.parquet").read_bytes()
    (results / FIT / "history.parquet").write_bytes(whole[:-30])
    events.Followed(results, tmp_path / "events").follow()
    found = [place.parent for place in (tmp_path / "events").rglob("*tfevents*")]
    assert found == [tmp_path / "events" / MODEL]


def test_names_of_runs_are_those_of_their_jobs() -> None:
    assert events.run_of("moe-step-3.12") == "models/moe-step-3/seed-12"
    assert events.run_of("pair/moe.0_dense.0/default, seed 1") == FIT
    assert events.run_of("moe at 1e-05") == "models/moe/sweep/lr-1e-05"
    assert events.run_of("None") is None


def test_without_tensorboard_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[watch\]'"):
        events.check_installed()
