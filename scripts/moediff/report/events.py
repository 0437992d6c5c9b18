"""Histories of models and dictionaries as event files, which TensorBoard reads, and Weights & Biases too.

A file holds nothing but its history (its times are steps, since histories know no others), so that equal
histories are equal bytes, and a longer one of the same run begins with the bytes of a shorter one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from moediff.config import layout
from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError, writing

INSTALL = "event files need TensorBoard: pip install -e '.[watch]'"
_TRAINED = ("step", "split", "domain", "name", "value")  # `training.history.COLUMNS`
_FITTED = re.compile(
    r"(?P<comparison>[^/]+)/(?P<member>[^/]+)/(?P<recipe>[^/]+), seed (?P<seed>\d+)"
)
_TRIED = re.compile(r"(?P<model>\S+) at (?P<rate>\S+)")


def lacking() -> str:
    """What to do where TensorBoard is not installed; empty where it is."""
    from importlib.util import find_spec

    return "" if find_spec("tensorboard") else INSTALL


def check_installed() -> None:
    """Raise UserError where TensorBoard is not installed."""
    if lacking():
        raise UserError(lacking())


def encoded(history: Iterable[Mapping[str, Any]]) -> bytes:
    """The event file of a history, whose rows are those of a model (one a value) or of a dictionary
    (one a step). What is not finite is left out."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = BytesIO()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    for step, tag, value in _scalars(history):
        if math.isfinite(value):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.write(
                Event(wall_time=float(step), step=step, summary=summary).SerializeToString()
            )
    return file.getvalue()


def _scalars(history: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, str, float]]:
    """Step, name and value, in the history's order."""
    for row in history:
        if set(row) == set(_TRAINED):
            yield row["step"], f"{row['name']}/{row['split']}/{row['domain']}", row["value"]
        else:
            for name in sorted(row.keys() - {"step"}):
                yield row["step"], name, float(row[name])


def rows_of(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a stored history, a model's or a dictionary's. Raises DamagedError."""
    from moediff.training import history

    table = artifact.read_parquet(path)
    return (table if "fve" in table.columns else history.as_long(table)).to_dicts()


def write(path: Path | str, history: Iterable[Mapping[str, Any]]) -> None:
    """Write the event file of a history."""
    with artifact.whole(path) as partial:
        partial.write_bytes(encoded(history))


class Followed:
    """Event files in a folder of all histories of some results: those that are stored, and of jobs that are
    not done those of their newest checkpoints, a point or some minutes behind.

    A file only grows, as TensorBoard expects of one that it has open; that of a run that began anew is
    replaced.
    """

    def __init__(self, results: Path, folder: Path) -> None:
        self.results, self.folder = results, folder
        self.seen: dict[
            str, tuple[Path, int]
        ] = {}  # run -> the file that its events are from, and its time

    def follow(self) -> None:
        """Take in what is new. Raises UserError where a file cannot be written."""
        for run, (path, written) in sorted({**self._checkpoints(), **self._stored()}.items()):
            if self.seen.get(run) == (path, written):
                continue
            try:
                checkpoint = path.suffix == ".safetensors"
                history = artifact.read_metadata(path)["history"] if checkpoint else rows_of(path)
            except (DamagedError, FileNotFoundError):  # the next one, or its end, took its place
                continue
            _grow(
                self.folder / Path(*Path(layout.path("events", run=run)).parts[1:]),
                encoded(history),
            )
            self.seen[run] = path, written

    def _stored(self) -> dict[str, tuple[Path, int]]:
        """Stored histories by run."""
        found = {}
        for kind in ("model", "dictionary"):
            names = re.findall(r"{(\w+)}", layout.PATHS[kind])
            pattern = layout.path(kind, **dict.fromkeys(names, "*") | {"file": "history.parquet"})
            for path in self.results.glob(pattern):
                run = path.parent.relative_to(self.results).as_posix()
                found[run] = path, path.stat().st_mtime_ns
        return found

    def _checkpoints(self) -> dict[str, tuple[Path, int]]:
        """The newest checkpoint of every run."""
        found: dict[str, tuple[Path, int]] = {}
        for path in (self.results / layout.path("state")).glob("*/step-*.safetensors"):
            try:
                written = path.stat().st_mtime_ns
                run = run_of(str(artifact.read_metadata(path).get("name")))
            except (DamagedError, FileNotFoundError):
                continue
            if run is not None and written >= found.get(run, (path, 0))[1]:
                found[run] = path, written
        return found


def run_of(name: str) -> str | None:
    """Where the results of a run lie, by what its job calls it in checkpoints; None for no such name."""
    if match := _FITTED.fullmatch(name):
        return layout.path("dictionary", **match.groupdict(), file="").rstrip("/")
    if match := _TRIED.fullmatch(name):
        return layout.path("trial", **match.groupdict()).removesuffix(".json")
    try:
        source = layout.Source.parse(name)
    except UserError:
        return None
    return layout.path("model", model=source.model, seed=source.seed, file="").rstrip("/")


def _grow(path: Path, content: bytes) -> None:
    """Give a file this content, by writing its end alone where it begins alike."""
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        before = b""
    if before and content.startswith(before):
        with writing(path), open(path, "ab") as file:
            file.write(content[len(before) :])
    elif before != content:
        with artifact.whole(path) as partial:
            partial.write_bytes(content)
