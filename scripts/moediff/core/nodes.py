"""Ranks that something else starts, on one machine or several: which one a process is, and what it does.

torchrun tells a process its place by RANK, WORLD_SIZE and LOCAL_RANK, and where all meet by MASTER_ADDR and
MASTER_PORT; srun tells the first three by names of its own.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.core.preemption import Preempted

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


@dataclass(frozen=True)
class Place:
    """Which rank a process is."""

    rank: int
    count: int
    local: int  # on its machine


def place() -> Place | None:
    """That of this process as the environment says it; None where nothing is said.

    Raises UserError where only some of it is said.
    """
    said = os.environ
    if "RANK" not in said or "WORLD_SIZE" not in said:
        return None
    if missing := [name for name in NAMES if name not in said]:
        raise UserError(
            f"RANK and WORLD_SIZE are set, {' and '.join(missing)} not: set all that torchrun does, or none"
        )
    try:
        found = Place(*(int(said[name]) for name in NAMES[:3]))
    except ValueError:
        found = Place(-1, 0, 0)
    if not 0 <= found.rank < found.count:
        raise UserError(
            f"RANK {said['RANK']} of {said['WORLD_SIZE']}, LOCAL_RANK {said['LOCAL_RANK']}: no such rank"
        )
    return found


def follow_slurm() -> None:
    """Say a process's place by torchrun's names where srun has said it by its own."""
    for name, other in SLURM.items():
        if other in os.environ:
            os.environ.setdefault(name, os.environ[other])


def launch(
    command: str,
    folder: Path,
    function: Callable[..., None],
    given: tuple[Any, ...],
    about: Mapping[str, Any],
) -> None:
    """Run `function(*given, ranks=...)` in every process that a command starts, such as `srun`.

    `function` is one of a module, `given` are plain values and dataclasses of them; `about`, plain too, is
    what a rank begins with; `folder` is seen from every machine. Raises UserError with the line of the first
    rank that ends by one, or with the command's code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="ranks-") as scratch:
        file = Path(scratch) / "task.json"
        artifact.write_plain_json(
            file,
            {**about, "function": _name(function), "given": [_packed(value) for value in given]},
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment.setdefault("SLURM_KILL_BAD_EXIT", "1")  # srun ends all where one ends
        if "MASTER_ADDR" not in environment:
            environment |= {"MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(_free_port())}
        words = [*shlex.split(command), sys.executable, "-m", "moediff.core.rank", str(file)]
        try:
            started = subprocess.Popen(words, env=environment)
        except OSError as error:
            raise UserError(f"mpi: {command} cannot be run ({error.strerror})") from error
        try:
            code = started.wait()
        except Preempted:
            started.terminate()
            started.wait()
            raise
        if code:
            lines = sorted(Path(scratch).glob("said-*"))
            said = [line.read_text(encoding="utf-8") for line in lines]
            raise UserError(said[0] if said else f"mpi: {command} ended with code {code}")


def task_of(file: Path) -> tuple[Callable[..., None], list[Any], dict[str, Any]]:
    """The function of a task that `launch` wrote, what it is given, and what was said about it."""
    found = json.loads(file.read_text(encoding="utf-8"))
    given = [_unpacked(value) for value in found.pop("given")]
    return _named(found.pop("function")), given, found


def say(file: Path, line: str) -> None:
    """Leave a line for whoever launched this rank."""
    name = f"said-{os.environ.get('RANK', '0').zfill(6)}"
    artifact.write_text(file.with_name(name), line)


def _name(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _packed(value: Any) -> dict[str, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": _name(type(value)), "fields": asdict(value)}
    return {"value": value}


def _unpacked(packed: dict[str, Any]) -> Any:
    return _named(packed["class"])(**packed["fields"]) if "class" in packed else packed["value"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
