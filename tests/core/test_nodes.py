"""Ranks that something else starts, on several machines."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from moediff.core import nodes
from moediff.core.errors import UserError
from moediff.core.ranks import Ranks, together
from workflow import ROOT

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "9",
}


@dataclass(frozen=True)
class Told:
    """What a rank is to leave behind."""

    folder: str
    names: list[str]
    dies: int | None = None


def leave(told: Told, more: int, *, ranks: Ranks) -> None:
    """Write down which rank this is, and what all of them sum to; one may die."""
    if ranks.rank == told.dies:
        os.kill(os.getpid(), signal.SIGKILL)
    total = ranks.total(ranks.rank + more)
    said = f"{os.getpgid(0)} {os.environ['TMPDIR']} {os.environ['LOCAL_RANK']} {total}"
    Path(told.folder, told.names[ranks.rank]).write_text(said)


def launcher(each: int) -> str:
    return f"{sys.executable} {ROOT / 'tests/two_nodes.py'} slurm {each}"


def test_a_place_is_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *nodes.SLURM.values()):
        monkeypatch.delenv(name, raising=False)
    assert nodes.place() is None
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert nodes.place() == nodes.Place(1, 4, 0)
    with pytest.raises(UserError, match=r"^3 ranks are asked for, and WORLD_SIZE is 4"):
        together(3, leave)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(UserError, match=r"^RANK 4 of 4, LOCAL_RANK 0: no such rank$"):
        nodes.place()
    monkeypatch.delenv("MASTER_PORT")
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(UserError, match="are set, LOCAL_RANK and MASTER_PORT not: set all"):
        nodes.place()


def test_srun_s_names_are_followed_where_torchrun_s_are_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")  # to be put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOCAL_RANK", "5")
    for name, value in {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    nodes.follow_slurm()
    assert [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["1", "2", "5"]


def test_two_ranks_on_each_of_two_nodes_are_one_group(meeting, tmp_path: Path) -> None:
    names = [f"rank-{number}" for number in range(4)]
    together(1, leave, Told(str(tmp_path), names), 1, launcher=launcher(2), folder=tmp_path / "all")
    found = [(tmp_path / name).read_text().split() for name in names]
    assert [said[2:] for said in found] == [["0", "10.0"], ["1", "10.0"]] * 2
    assert len({said[0] for said in found}) == len({said[1] for said in found}) == 2
    assert not list((tmp_path / "all").iterdir())


def test_a_rank_that_is_killed_ends_the_job_with_one_line(meeting, tmp_path: Path) -> None:
    told = Told(str(tmp_path), [], 1)
    with pytest.raises(
        UserError, match=r"^rank 0 of 2: another rank has ended, and the job with it;"
    ):
        together(1, leave, told, 0, launcher=launcher(1), folder=tmp_path)


def test_a_launcher_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^mpi: no-such-command cannot be run \(No such file"):
        together(1, leave, launcher="no-such-command", folder=tmp_path)
