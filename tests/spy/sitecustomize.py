"""First on the path of a run that a test kills: checkpoints at each point, and a journal of them.

The journal is the file that $MOEDIFF_JOURNAL names; a line of it is a job's folder and the step that was
saved there, written once it was.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

SPIED = "moediff.core.checkpoint"


def _spied(checkpoint: ModuleType) -> None:
    checkpoint.LEAST_WAIT = checkpoint.WAIT_PER_WRITE = 0
    save = checkpoint.save

    @functools.wraps(save)
    def told(folder: Path, step: int, *arguments: Any, **named: Any) -> None:
        save(folder, step, *arguments, **named)
        with open(os.environ["MOEDIFF_JOURNAL"], "a", encoding="utf-8") as journal:
            journal.write(f"{folder.name} {step}\n")

    checkpoint.save = told


def _then(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    execute(module)
    _spied(module)


class Finder:
    """Finds one module, and has it changed once it is imported."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != SPIED:
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(_then, spec.loader.exec_module)
        return spec


sys.meta_path.insert(0, Finder)
