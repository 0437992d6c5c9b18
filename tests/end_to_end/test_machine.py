"""What the machine refuses a job is one line in its log and on the screen, no traceback."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from moediff.job import job


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """The library's log is left as it was."""
    log = logging.getLogger("moediff")
    before = list(log.handlers)
    yield
    for handler in set(log.handlers) - set(before):
        log.removeHandler(handler)
        with suppress(OSError):  # of a disk that is full
            handler.close()


def job_of(log: Path) -> SimpleNamespace:
    """What a script sees that asked for nothing."""
    return SimpleNamespace(log=[str(log)], threads=1, rule="fit", resources={})


def ended(log: Path, error: BaseException) -> str:
    """What a job's log says when its body raised."""
    with pytest.raises(SystemExit) as caught, job(job_of(log)):
        raise error
    assert caught.value.code == 1
    return log.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_an_error_of_the_machine_is_one_line(tmp_path: Path, number: int) -> None:
    said = ended(tmp_path / "a.log", OSError(number, os.strerror(number), "some/file"))
    assert f"error in fit: some/file: {os.strerror(number)}" in said
    assert len(said.splitlines()) == 1


def test_a_fault_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    for error in (KeyError("k"), FileNotFoundError(errno.ENOENT, "No such file", "some/file")):
        assert "Traceback" in ended(tmp_path / "a.log", error)


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = job_of(tmp_path)
    with pytest.raises(SystemExit, match=r"error in fit: .*Is a directory"), job(folder):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_log_on_a_full_disk_does_not_hide_what_happened(capfd) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file")
    with pytest.raises(SystemExit), job(job_of(Path("/dev/full"))):
        raise full
    said = capfd.readouterr().err
    assert "error in fit: some/file: No space left on device" in said
    assert "Traceback" not in said
