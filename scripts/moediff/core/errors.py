"""The ways in which a user's input can be wrong. Each message is one line that says what to do."""

from __future__ import annotations

import errno

_REFUSED = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


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
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return UserError(
            f"{path}: cannot be read now ({error.strerror}); nothing is known against it"
        )
    return DamagedError(path, f"{what} ({first_line(error)})")


def shown(text: str, most: int = 80) -> str:
    """Text of a user's on one line of a message: cut, and what cannot be printed escaped."""
    cut = text if len(text) <= most else text[:most] + "..."
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in cut)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class when it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
