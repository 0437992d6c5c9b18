"""The two ways in which a user's input can be wrong. Each message is one line that says what to do."""


class UserError(Exception):
    """Bad input: the message names what is wrong, where, and what to do."""


class ConfigError(UserError):
    """A configuration that cannot be run, found before any job starts."""


class DamagedError(UserError):
    """A file that was whole when it was made and is not any more."""

    def __init__(self, path: object, what: str) -> None:
        super().__init__(
            f"{path}: {what}; it was changed or cut after it was made. "
            f"To rebuild it, run: rm '{path}' and then the same snakemake command again"
        )
