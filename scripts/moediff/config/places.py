"""Places that a config names: where results go, and which files its globs match.

`~` is the user's folder everywhere. The results folder is written in one way, since Snakemake compares
paths as text: `./out` and `out/` are `out`. What the project itself wrote is never read as its input.
"""

from __future__ import annotations

import os
import re
import shlex
from functools import cache
from pathlib import Path

from moediff.config.base import ROW_SPLITS, Config, as_list
from moediff.config.globs import glob_fault
from moediff.config.kinds import EXTERNAL, LOADED, models_of
from moediff.core.errors import ConfigError

_MEANS_MORE = re.compile(r"[{}*?\[\]]")  # to Snakemake, or to a glob
_BRACES, _HALF = re.compile(r"\{.+\}", re.DOTALL), re.compile("[\ud800-\udfff]")
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9_][\w.-]{0,95}")


def settle(config: Config) -> None:
    """Write every place of a config, in place, as all that comes after reads it. Raises ConfigError."""
    config["results"] = _results(config["results"])
    for name, domain in config.get("corpus", {}).get("domains", {}).items():
        if "paths" in domain:
            where = f"corpus.domains.{name}.paths"
            domain["paths"] = [_home(where, path) for path in domain["paths"]]
    for name in models_of(config, LOADED):
        model = config["models"][name]
        model["load"] = _home(f"models.{name}.load", model["load"])
    for name in models_of(config, EXTERNAL):
        rows = config["models"][name]["rows"]
        for split in ROW_SPLITS:
            where = f"models.{name}.rows.{split}"
            found = [_home(where, path) for path in as_list(rows[split])]
            rows[split] = found if isinstance(rows[split], list) else found[0]
    tokenizer = config.get("corpus", {}).get("tokenizer", {})
    if "load" in tokenizer:
        tokenizer["load"] = _home("corpus.tokenizer.load", tokenizer["load"])


def _home(where: str, path: str) -> str:
    """A path with `~` written out. It is not made plainer: documents bear the name that a glob gives."""
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ConfigError(f"{where}: '{path}': no user of that name has a folder here")
    return found


def _results(given: str) -> str:
    """The results folder in its one spelling."""
    if not given.isprintable() or given != given.strip() or _MEANS_MORE.search(given):
        raise ConfigError(
            f"results: '{given}' holds a letter that Snakemake reads as more than itself; "
            "name a folder without { } * ? [ ], blanks at its ends and letters that cannot be printed"
        )
    found = os.path.normpath(_home("results", given))
    if found.startswith(("-", "~")):
        raise ConfigError(f"results: '{given}' begins like an option or a user; write another name")
    if is_inside(os.getcwd(), found):
        raise ConfigError(
            f"results: '{given}' is the working folder, or holds it; name a folder of its own, such "
            "as results"
        )
    above = found
    while not os.path.lexists(above) and os.path.dirname(above) != above:
        above = os.path.dirname(above) or "."
    if not os.path.isdir(above):
        raise ConfigError(f"results: '{given}': '{above}' is not a folder")
    return found


def is_inside(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it, by its name or by where its links lead."""
    named, root = os.path.abspath(path), os.path.abspath(folder)
    led = os.path.join(_real(os.path.dirname(named)), os.path.basename(named))
    return Path(named).is_relative_to(root) or Path(led).is_relative_to(_real(root))


@cache
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def outside(where: str, pattern: str, found: list[str], results: str) -> list[str]:
    """What a glob found, without what lies in the results folder. Raises ConfigError by `glob_fault`."""
    folders = {folder: is_inside(folder, results) for folder in set(map(os.path.dirname, found))}
    root = os.path.basename(os.path.abspath(results))  # a folder is found as well, even that one
    kept = [
        match
        for match in found
        if not folders[os.path.dirname(match)]
        and not (os.path.basename(match) == root and is_inside(match, results))
    ]
    if found and not kept:
        raise ConfigError(f"{where}: '{pattern}' matches only this project's own {results}/")
    fault = glob_fault(pattern, kept)
    if fault:
        raise ConfigError(f"{where}: {fault}")
    for match in kept:
        check_name(where, match)
    return kept


def check_name(where: str, path: str) -> None:
    """Refuse the path of a file that Snakemake takes for another's. Raises ConfigError."""
    if _BRACES.search(path):
        raise ConfigError(
            f"{where}: '{path}': Snakemake puts something else for what stands in braces; rename it"
        )
    if _HALF.search(path):
        raise ConfigError(f"{where}: '{path}' is a name that is not UTF-8; rename it")


def check_loaded(where: str, place: str, results: str) -> None:
    """Refuse a checkpoint or tokenizer that is no folder or file here and cannot be a Hub id."""
    if os.path.exists(place):
        check_name(where, place)
        if is_inside(place, results):
            raise ConfigError(
                f"{where}: '{place}' lies in this project's own {results}/; a model that is trained "
                "here is named in a comparison, not loaded"
            )
    elif not _HUB_ID.fullmatch(place):
        raise ConfigError(f"{where}: there is no folder '{place}', and it cannot be a Hub id")


def check_interpreter(executable: str) -> None:
    """Refuse a Python by whose path Snakemake, which does not quote it, cannot start a script."""
    if shlex.quote(executable) != executable:
        raise ConfigError(
            f"this Python's path ({executable}) holds a blank, a quote or another letter that a shell "
            "reads as more than itself; Snakemake cannot start scripts with it: make .venv in another "
            "folder, and run its snakemake"
        )
