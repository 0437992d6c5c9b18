"""The ways in which a user's input can be wrong. Each message is one line that says what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 1000  # characters of a line that is to be read
_REFUSED = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MACHINE = _REFUSED | _FULL | {errno.EROFS, errno.EIO}
_IN_THE_WAY = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG}
# How libraries that hide the system's number write it: h5py, Rust's std::io, Python itself.
_NUMBER = re.compile(r"(?:errno = |os error |\[Errno )(\d+)")


class UserError(Exception):
    """Bad input: the message names what is wrong, where, and what to do."""


class ConfigError(UserError):
    """A configuration that cannot be run, found before any job starts."""


class Diverged(UserError):
    """A loss that is no longer finite: this learning rate is too high, the rest of the run is sound."""


class DamagedError(UserError):
    """A file that was whole when it was made and is not any more."""

    def __init__(self, path: object, what: str) -> None:
        super().__init__(
            f"{path}: {what}; it was changed or cut after it was made. "
            f"To rebuild it, run: rm '{path}' and then the same snakemake command again"
        )


def unreadable(path: object, what: str, error: BaseException) -> UserError:
    """The error to raise when reading `path` failed: damage, unless the machine refused to read it."""
    refused = refusal(path, error)
    return refused or DamagedError(path, f"{what} ({first_line(error)})")


def refusal(path: object, error: BaseException) -> UserError | None:
    """That the machine does not let `path` be read, if that is why reading it failed; else None.

    Libraries that read by themselves do not say why they failed: then the file is opened once more.
    """
    if not (isinstance(error, OSError) and error.errno):
        try:
            with open(str(path), "rb"):
                return None
        except OSError as again:
            error = again
    if error.errno not in _REFUSED:
        return None
    return UserError(f"{path}: cannot be read now ({error.strerror}); nothing is known against it")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in one line that a file of the user's cannot be read, where the machine refuses it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # of a library, about what it has read
            raise
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); nothing is known against it"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that `path`, or something in it, cannot be written, where the machine refuses it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refused = _unwritable(path, error)
        if refused is None:
            raise
        raise refused from error


def _unwritable(path: Path, error: Exception) -> UserError | None:
    """That the machine does not let `path` be written, if that is what `error` says; else None."""
    if isinstance(error, OSError) and error.errno:
        number = error.errno
        about = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if name]
        if about and not any({p, p.parent} & {path, *path.parents} for p in about):
            return None  # of another file, which is read meanwhile
    else:
        told = _NUMBER.search(str(error))
        number = int(told[1]) if told else 0
    if number not in _MACHINE | _IN_THE_WAY:
        return None
    cure = "free space there" if number in _FULL else "see what stands in the way there"
    return UserError(
        f"{path}: cannot be written ({os.strerror(number)}); {cure} and run the same snakemake "
        f"command again: what is finished is kept"
    )


def of_the_machine(error: BaseException) -> str | None:
    """What to say of an error that is the machine's alone (space, permission, a disk's fault); else None."""
    if not isinstance(error, OSError) or error.errno not in _MACHINE | {errno.ELOOP, errno.EISDIR}:
        return None
    return f"{error.filename or 'a file'}: {error.strerror}; see to that and run the same command again"


def one_line(text: str, longest: int = LONGEST) -> str:
    """Text as one line that a terminal shows as it is, its middle left out where it is very long."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    half = longest // 2
    return shown if len(shown) <= longest else f"{shown[:half]} ... {shown[-half:]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class when it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
