"""What every script does first: log to the rule's file, bound its threads, end errors in one line."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moediff.errors import UserError


@contextmanager
def job(snakemake: Any, torch_threads: bool = False) -> Iterator[logging.Logger]:
    """Run a script's body; bad input ends it with one line, a fault of ours with its traceback."""
    log = logging.getLogger("moediff")
    log.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if snakemake.log:
        handlers.append(logging.FileHandler(snakemake.log[0], mode="w", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if snakemake.threads > 1 else "false")
    os.environ.setdefault("RAYON_NUM_THREADS", str(snakemake.threads))
    if torch_threads:
        import torch

        torch.set_num_threads(snakemake.threads)
    try:
        yield log
    except UserError as error:
        log.error("error in %s: %s", snakemake.rule, error)
        sys.exit(1)
    except Exception as error:
        log.error("error in %s: %s: %s", snakemake.rule, type(error).__name__, error)
        log.error(traceback.format_exc())
        sys.exit(1)


def fit_of(wildcards: Any) -> dict[str, Any]:
    """Which dictionary a job is about, as its results say it."""
    return {
        "comparison": wildcards.comparison,
        "member": wildcards.member,
        "recipe": wildcards.recipe,
        "seed": int(wildcards.seed),
    }
