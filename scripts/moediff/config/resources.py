"""What a job takes: GPUs, memory and minutes, from what it works on and how often it was tried.

Never from the machine that reads the Snakefile: on a cluster that is a login node. A profile says
where jobs run and what is there; here stands what they need. Estimates are of a CPU job and generous,
by a half and more over what two models of width 128 (tests hold theirs) and the study took, since too
little ends a job and too much only waits; each further attempt asks for as much again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moediff.config.base import ROW_SPLITS, Config, files_of
from moediff.config.kinds import kind
from moediff.config.layout import Member
from moediff.config.models import model_width, own_tokenizers

UNKNOWN_MODEL_MB = 32_000  # weights of a checkpoint whose files are not on this machine
UNKNOWN_WIDTH = 4096
MEGABYTE = 2**20
TOKEN_BYTES = 28  # of a token in a shard: itself, its document, group, domain and characters


@dataclass(frozen=True)
class Needs:
    """What a stage takes at rest, and what grows with its work."""

    rest_mb: int  # imports, and buffers of fixed size
    minutes: int  # of the smallest job, with a slow file system
    input_mb: float = 0.0  # MB of memory for each MB of input files
    input_minutes: float = 0.0  # for each GB of input files
    weights: float = 0.0  # copies of a model's or a dictionary's weights in memory
    steps: float = 0.0  # minutes for each 1e12 parameters x tokens or rows
    gpu: bool = False


# Stage -> needs. Copies of weights: training and fitting hold weights, gradients, two moments and what
# is being written; an analysis holds a dictionary in float64 and its codes.
STAGES = {
    # Text comes part by part (benchmarks/README.md): of files to read, the largest counts, which may be one
    # document; of tables and tokens a little for what is known of each document.
    "documents": Needs(1000, 20, input_mb=6, input_minutes=60),
    "tokens": Needs(1500, 20, input_mb=0.25, input_minutes=60),
    "training": Needs(2000, 20, weights=8, steps=10, gpu=True),
    "loading": Needs(2000, 30, weights=2),
    "activations": Needs(2500, 20, input_mb=8, weights=2, steps=3, gpu=True),
    "external": Needs(1500, 20, input_mb=4, input_minutes=10),
    "dictionaries": Needs(3000, 20, weights=8, steps=10, gpu=True),
    "components": Needs(2000, 20, input_minutes=30),
    "analysis": Needs(2500, 20, weights=6, input_minutes=60, gpu=True),
    "reruns": Needs(3500, 30, weights=8, input_minutes=120, gpu=True),
    "routing": Needs(2500, 20, input_mb=1, weights=2, input_minutes=60),
    "exports": Needs(2500, 20, weights=6, input_minutes=60),
    "tables": Needs(1000, 10, input_mb=8),
    "synthetic": Needs(3000, 600),
}


def needs(
    stage: str, device: str, megabytes: float = 0.0, weights_mb: float = 0.0, work: float = 0.0,
    attempt: int = 1,
) -> dict[str, int]:  # fmt: skip
    """Snakemake's `gpu`, `mem_mb` and `runtime` (minutes) of a job.

    `megabytes` of input files, `weights_mb` of float32 weights, `work` in parameters times the
    tokens or rows that they are applied to. `device` is the config's: `cpu` asks for no GPU.
    """
    one = STAGES[stage]
    memory = one.rest_mb + one.input_mb * megabytes + one.weights * weights_mb
    minutes = one.minutes + one.input_minutes * megabytes / 1024 + one.steps * work / 1e12
    return {
        "gpu": int(one.gpu and device != "cpu"),
        "mem_mb": round(memory * attempt),
        "runtime": round(minutes * attempt),
    }


def model_parameters(train: Mapping[str, int], vocabulary: int) -> int:
    """Parameters of a model trained here: blocks, embedding and unembedding; norms apart."""
    d_model, experts = train["d_model"], train["experts"]
    block = 4 * d_model**2 + 3 * d_model * train["ffn"] * experts + d_model * (experts - 1)
    return train["layers"] * block + 2 * vocabulary * d_model


def shard_tokens(config: Config, split: str) -> int:
    """Tokens of one shard of a split."""
    return min(config["corpus"]["shard_tokens"], config["corpus"]["tokens"][split])


def model_mb(config: Config, model: str) -> float:
    """Float32 megabytes of a model's weights; of a folder its files, of a Hub id UNKNOWN_MODEL_MB."""
    settings = config["models"][model]
    if kind(config, model).trained:
        vocabulary = config["corpus"]["tokenizer"].get("train", 2**16)
        return 4 * model_parameters(settings["train"], vocabulary) / MEGABYTE
    files = map(Path, files_of(settings.get("load", ""), ("*.safetensors",)))
    return sum(file.stat().st_size for file in files) / MEGABYTE or UNKNOWN_MODEL_MB


def largest_shard(config: Config, models: Sequence[str]) -> dict[str, float]:
    """Of the largest activation shard of any model: `megabytes` of tokens, of `weights`, and `work`."""
    weights = max((model_mb(config, model) for model in models), default=0.0)
    tokens = max(shard_tokens(config, split) for split in ROW_SPLITS)
    texts = 1 + len(own_tokenizers(config))
    return {
        "megabytes": texts * tokens * TOKEN_BYTES / MEGABYTE,
        "weights": weights,
        "work": weights * MEGABYTE / 4 * tokens,
    }


def dictionary_mb(config: Config, member: Member, recipe: str) -> float:
    """Float32 megabytes of a dictionary's encoder and decoder, over the summed widths of its sources."""
    width = sum(model_width(config, source.model) or UNKNOWN_WIDTH for source in member.sources)
    return 2 * 4 * config["recipes"][recipe]["features"] * width / MEGABYTE
