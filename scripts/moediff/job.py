"""What every script does first: log to the rule's file, bound its threads, end errors in one line.

The one module that sees Snakemake's object. It imports little: what a job needs is imported in it.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from moediff.core.errors import UserError

# Objects made before the garbage collector looks at them, 700 otherwise. Imports make hundreds of thousands
# that all stay: looking less often takes a tenth off the import of transformers, and no memory.
COLLECTED_EVERY = 50_000

if TYPE_CHECKING:
    from moediff.analysis.reruns import Text
    from moediff.analysis.sides import Side


@contextmanager
def job(snakemake: Any, torch_threads: bool = False) -> Iterator[logging.Logger]:
    """Run a script's body; bad input ends it with one line, a fault of ours with its traceback."""
    gc.set_threshold(COLLECTED_EVERY)
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
    finally:
        # The process ends here: no need to take apart, object by object, what was imported. That is
        # a second of each job that imports transformers.
        gc.freeze()


def fit_of(wildcards: Any) -> dict[str, Any]:
    """Which dictionary a job is about, as its results say it."""
    return {
        "comparison": wildcards.comparison,
        "member": wildcards.member,
        "recipe": wildcards.recipe,
        "seed": int(wildcards.seed),
    }


def sides_and_texts(
    snakemake: Any, facts: Mapping[str, Any]
) -> tuple[list[Side], Iterator[list[Text]]]:
    """Sides and texts of `splicing.splice`; `facts` are those of the job's dictionary."""
    from moediff.analysis.sides import open_sides, read_texts
    from moediff.core import device

    found, params, config = snakemake.input, snakemake.params, snakemake.config
    sides = open_sides(
        facts,
        found.dictionary,
        list(params.sources),
        found.models,
        found.points,
        [config["models"][model].get("device_map") for model in params.models],
        device.pick_device(config["device"]),
    )
    texts = read_texts(found.tokens, params.tokenizers, params.reads, params.drop, params.across)
    return sides, texts
