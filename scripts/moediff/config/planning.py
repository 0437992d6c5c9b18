"""Snakemake plans a job of many files in time linear in them.

One job makes all token shards of a split, and caching asks for each of them alone. In the version of READ
Snakemake then goes through all files of that job for each of its files (which rule makes it? does `--until`
name one of the rule's? is one temporary?), which is 10,000 x 5,000 steps for 10,000 shards of activations;
for each file of a model it goes through all shards that the model is trained on; and for each job it opens
the script and takes every function of the rule apart. Here the same is told without: an answer never
differs.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from typing import Any

FEW = 16  # inputs of a job; fewer are compared one by one as fast
MADE = 200_000  # objects between two looks for garbage: a plan keeps nearly all that it makes
READ = "9.27.1"  # whose methods were read; another version plans by its own


def lighten(workflow: Any, temporary: bool) -> None:
    """Replace slow answers of Snakemake in this process. `temporary`: some output of a rule is."""
    gc.set_threshold(MADE, 10, 10)
    if version("snakemake") != READ:
        return
    settings = workflow.storage_settings
    if not temporary and not settings.all_temp:
        settings.notemp = True  # looks for no temporary files among all outputs, as each job ends
    _find_by_name()
    _ask_no_files_of_until()
    _find_an_input_by_name()
    _open_a_script_once()
    _read_signatures_once()


def _replace(owner: type, name: str, answer: Callable[[Callable[..., Any]], Any]) -> None:
    """Give a class `answer(plain)` in the place of its method `plain`, once in a process."""
    plain = getattr(owner, name)
    if not hasattr(plain, "replaced"):
        found = answer(plain)
        found.replaced = plain
        setattr(owner, name, found)


def _find_by_name() -> None:
    """A rule without wildcards makes the files that it names: they are looked up, not matched one by one."""
    from snakemake.rules import Rule

    names: dict[Any, frozenset[str]] = {}

    def answer(plain: Callable[..., Any]) -> Any:
        def is_producer(self: Any, requested_output: str) -> bool:
            if self.has_wildcards():
                return bool(plain(self, requested_output))
            if self not in names:
                names[self] = frozenset(str(path) for path in self.products())
            return str(requested_output) in names[self]

        return is_producer

    _replace(Rule, "is_producer", answer)


def _ask_no_files_of_until() -> None:
    """Without `--until` no job is named by it."""
    from snakemake.dag import DAG

    def answer(plain: Callable[..., Any]) -> Any:
        def in_until(self: Any, job: Any) -> bool:
            return bool(self.untilrules or self.untilfiles) and bool(plain(self, job))

        return in_until

    _replace(DAG, "in_until", answer)


def _find_an_input_by_name() -> None:
    """Whether a file is among a job's many inputs is looked up: asked of each file that the job makes."""
    from snakemake.iocontainers import InputFiles

    def answer(plain: Callable[..., Any]) -> Any:
        def __contains__(self: Any, file: Any) -> bool:
            if len(self) < FEW:
                return bool(plain(self, file))
            count, names = self.__dict__.get("_looked_up", (None, frozenset()))
            if count != len(self):
                names = frozenset(str(path) for path in self)
                self._looked_up = len(self), names
            return str(file) in names

        return __contains__

    _replace(InputFiles, "__contains__", answer)


def _open_a_script_once() -> None:
    """That a script is there is seen once for a rule, unless wildcards are in its path."""
    from snakemake.dag import ScriptProcessor

    def answer(plain: Callable[..., Any]) -> Any:
        def process_job(self: Any, job: Any) -> None:
            seen = self.__dict__.setdefault("rules_seen", set())
            path = getattr(job.rule, self.script_type)
            if path and "{" not in str(path):
                if job.rule in seen:
                    return
                seen.add(job.rule)
            plain(self, job)

        return process_job

    _replace(ScriptProcessor, "process_job", answer)


def _read_signatures_once() -> None:
    """A function's parameters stay what they are; those of four functions are asked for at each shard."""
    from snakemake import common, rules

    if hasattr(common.get_function_params, "cache_info"):
        return
    once = lru_cache(maxsize=4096)(common.get_function_params)
    common.get_function_params = rules.get_function_params = once
