"""What every script does first: log to the rule's file, take its GPUs, bound its threads, end in one line.

Then what several scripts open alike. The one module that sees Snakemake's object. It imports little: what a
job needs is imported in it.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from moediff.core import gpus, job_log, preemption
from moediff.core.errors import UserError, of_the_machine

# How Snakemake names the local copy of an object of a bucket, and a command that removes it.
_COPY = re.compile(r"\.snakemake/storage/s3/(?=\w)")
_REMOVAL = re.compile(rf"\brm (-r )?'{_COPY.pattern}")

# Objects made before the garbage collector looks at them, 700 otherwise. Imports make hundreds of thousands
# that all stay: looking less often takes a tenth off the import of transformers, and no memory.
COLLECTED_EVERY = 50_000

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from moediff.activations.kept_rows import Kept
    from moediff.activations.rows import AlignedRows
    from moediff.analysis.reruns import Pass, Rerun, Text
    from moediff.analysis.sides import Side
    from moediff.corpus.token_shards import TokenShard
    from moediff.dictionaries.dictionary import Dictionary


@contextmanager
def job(snakemake: Any, torch_threads: bool = False) -> Iterator[logging.Logger]:
    """Run a script's body; bad input ends it with one line, a fault of ours with its traceback.

    It has the GPUs that its rule asked for to itself. Told to end it exits with 143 (SIGTERM), 130 (Ctrl-C).
    """
    gc.set_threshold(COLLECTED_EVERY)
    log = logging.getLogger("moediff")
    log.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    logging.raiseExceptions = False  # a log on a full disk ends short, and the job says why
    if snakemake.log:
        try:
            handlers.append(
                logging.FileHandler(
                    snakemake.log[0], mode="w", encoding="utf-8", errors="backslashreplace"
                )
            )
        except OSError as error:
            sys.exit(job_log.failed(snakemake.rule, of_the_machine(error) or error))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(job_log.FORMAT, job_log.TIME))
        log.addHandler(handler)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if snakemake.threads > 1 else "false")
    os.environ.setdefault("RAYON_NUM_THREADS", str(snakemake.threads))
    try:
        wanted, nodes = snakemake.resources.get("gpu", 0), snakemake.resources.get("nodes", 1)
        with preemption.heeded(), gpus.taken(-(-wanted // nodes)):  # those of this node
            if torch_threads:
                import torch

                torch.set_num_threads(snakemake.threads)
            yield log
    except preemption.Preempted as end:
        log.error("%s", job_log.told_to_end(snakemake.rule, end.signal))
        sys.exit(end.code)
    except UserError as error:
        log.error("%s", job_log.failed(snakemake.rule, of_objects(str(error))))
        sys.exit(1)
    except Exception as error:
        told = of_the_machine(error)
        log.error("%s", job_log.failed(snakemake.rule, told or f"{type(error).__name__}: {error}"))
        if told is None:
            log.error(traceback.format_exc())
        sys.exit(1)
    finally:
        # The process ends here: no need to take apart, object by object, what was imported. That is
        # a second of each job that imports transformers.
        gc.freeze()


def of_objects(message: str) -> str:
    """A message that names objects of a bucket, and a command that removes them, in place of local copies."""
    options = {None: "", "-r ": "--recursive "}
    removed = _REMOVAL.sub(lambda rm: f"aws s3 rm {options[rm[1]]}'s3://", message)
    return _COPY.sub("s3://", removed)


def fit_of(wildcards: Any) -> dict[str, Any]:
    """Which dictionary a job is about, as its results say it."""
    return {
        "comparison": wildcards.comparison,
        "member": wildcards.member,
        "recipe": wildcards.recipe,
        "seed": int(wildcards.seed),
    }


def of_fits(paths: Iterable[str]) -> list[dict[str, Any]]:
    """The JSON of several dictionaries, each held against the dictionary that its path names.

    Raises UserError for one that lies in another's place.
    """
    from moediff.config import layout
    from moediff.core import artifact

    found = []
    for path in paths:
        record, place = artifact.read_json(path), layout.parse("dictionary", path)
        named = {key: str(record.get(key)) for key in place if key != "file"}
        if any(place[key] != value for key, value in named.items()):
            raise UserError(
                f"{path}: is of another dictionary ({'/'.join(named.values())}); put it back in its place, "
                f"or run rm '{path}' and then the same snakemake command again"
            )
        found.append(record)
    return found


def rows_of_moes(paths: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of tables of several MoEs, each with the model and seed that its path names."""
    from moediff.config import layout
    from moediff.core import artifact

    rows = []
    for path in paths:
        place = layout.parse("moe", path)
        named = {"model": place["model"], "seed": int(place["seed"])}
        rows += [named | row for row in artifact.read_parquet(path).to_dicts()]
    return rows


def state_root(snakemake: Any) -> Path:
    """The folder of all checkpoints of long jobs, outside every output.

    Snakemake deletes a job's outputs before it starts again; what must survive lies here.
    """
    from moediff.config import layout

    return Path(snakemake.config["results"]) / layout.path("state")


def state_folder(snakemake: Any, stage: str, *key: Any) -> Path:
    """The folder of one job's checkpoints, as `checkpoint.folder` names it."""
    from moediff.core import checkpoint

    return checkpoint.folder(state_root(snakemake), stage, *key)


def model_and_texts(
    snakemake: Any, shards: int = 1
) -> tuple[PreTrainedModel, dict[str, Any], Iterator[tuple[TokenShard, Kept]]]:
    """The job's model, its manifest, and of each token shard it and the rows to store of that.

    `input.tokens` are, of each of so many shards, the one that the model reads and then the same text by
    every other tokenizer.
    """
    from moediff.activations.kept_rows import kept_rows
    from moediff.core.device import pick_device
    from moediff.corpus.token_shards import read_token_shard
    from moediff.models.loading import open_manifest

    found, params, config = snakemake.input, snakemake.params, snakemake.config
    settings = config["models"][params.model]
    model, facts = open_manifest(
        found.model[0], pick_device(config["device"]), settings.get("device_map")
    )

    def texts() -> Iterator[tuple[TokenShard, Kept]]:
        each = len(found.tokens) // shards
        for start in range(0, len(found.tokens), each):
            shard, *others = map(read_token_shard, found.tokens[start : start + each])
            yield shard, kept_rows(shard, params.reading["drop"], params.across, others)

    return model, facts, texts()


def open_model(snakemake: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The job's model, and its manifest."""
    from moediff.core.device import pick_device
    from moediff.models.loading import open_manifest

    device = pick_device(snakemake.config["device"])
    return open_manifest(snakemake.input.model[0], device, snakemake.params.device_map)


def moe_runs(
    snakemake: Any, model: PreTrainedModel, paths: Sequence[str], name: str
) -> tuple[Iterator[Pass], tuple[str, ...]]:
    """Passes of the job's model over the first sequences of token shards, and the names of domains.

    As `reruns.passes`, with as many groups of documents as can be drawn anew where the text has them.
    """
    from moediff.analysis.reruns import Text, passes
    from moediff.core.bootstrap import LEAST_GROUPS
    from moediff.corpus.token_shards import read_token_shard

    params = snakemake.params
    domains = read_token_shard(paths[0]).domains
    texts = ([Text(read_token_shard(path))] for path in paths)
    every = passes(
        [model], texts, params.across, params.sequences, params.batch, name, LEAST_GROUPS
    )
    return (run for (run,) in every), domains


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


class OpenFit(NamedTuple):
    """A dictionary, and the validation rows that it is measured on."""

    rows: AlignedRows
    dictionary: Dictionary
    recipe: dict[str, Any]  # by which it was fitted
    device: torch.device


def open_fit(snakemake: Any) -> OpenFit:
    """The job's dictionary, and the validation rows of its sources as they are or by `params.views`.

    Raises UserError where it was fitted on other models, hook points or scales than the rows'.
    """
    from moediff.activations.rows import AlignedRows
    from moediff.analysis.evaluation import check_models
    from moediff.core.device import pick_device
    from moediff.dictionaries.dictionary import Dictionary

    found, params = snakemake.input, snakemake.params
    rows = AlignedRows.of(found.validation, params.points, params.get("views"))
    dictionary, facts = Dictionary.load(found.dictionary)
    check_models(rows, facts, found.dictionary)
    return OpenFit(rows, dictionary, facts["recipe"], pick_device(snakemake.config["device"]))


def open_rerun(snakemake: Any, device: torch.device) -> Rerun:
    """The model of the job's source, and the tokens on which it is run again."""
    from moediff.analysis.reruns import Rerun
    from moediff.corpus.token_shards import read_token_shard
    from moediff.models.loading import open_manifest

    found, params = snakemake.input, snakemake.params
    model, _ = open_manifest(found.model, device, params.device_map)
    tokens = read_token_shard(found.tokens)
    return Rerun(model, tokens, params.across, params.sequences, params.batch)
