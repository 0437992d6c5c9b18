"""Tokens a second of caching, everything included, over those of a bare forward pass.

    python benchmarks/cache_speed.py [--pairs 7] [--tokens 131072] [--points resid_post.2] [--device cuda]

The bare pass runs the same model over the same batches up to the last captured block, without a head,
and drops what it finds. Caching reads the token shard, chooses rows, runs the model with its hooks
(routing too, for the MoE), checks, scales, narrows, sums, orders and writes the shard to disk.
The two take turns in one process. Models are those of `tests/pair.yaml`, freshly made.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from clock import seconds
from transformers import PreTrainedModel

from moediff.activations import kept_rows
from moediff.activations.caching import Reading, cache, calibrate, stored_points
from moediff.core import artifact
from moediff.corpus import packing, token_shards
from moediff.hooks.points import Point
from moediff.models import build, families, inputs

DENSE = {
    "d_model": 128, "layers": 5, "heads": 4, "ffn": 512, "experts": 1, "top_k": 1,
    "renormalise": False,
}  # fmt: skip
SHAPES = {"dense": DENSE, "moe": DENSE | {"ffn": 256, "experts": 8, "top_k": 2}}
DROP = {"special_tokens": True, "sequence_start": True, "massive_norm": None}
CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Sizes:
    """Of the tokens that are read."""

    vocabulary: int = 4096
    length: int = 256  # tokens of a sequence
    batch: int = 16  # sequences of a pass
    tokens: int = 131_072  # of the shard


def write_tokens(path: Path, sizes: Sizes) -> None:
    """A token shard of random tokens in documents of some 500."""
    random = np.random.default_rng(0)
    count = sizes.tokens // sizes.length * sizes.length
    ends = random.random(count) < 1 / 500
    document = np.cumsum(ends) - ends
    place = np.arange(count, dtype=np.uint32)
    arrays = {
        "tokens": np.where(ends, 0, random.integers(1, sizes.vocabulary, count)).astype(np.uint16),
        "document": document.astype(np.int64),
        "group": document.astype(np.int64),
        "domain": np.zeros(count, np.uint8),
        "start": place,
        "end": place + 1,
        "word_end": np.ones(count, bool),
    }
    shaped = {name: array.reshape(-1, sizes.length) for name, array in arrays.items()}
    made_by = artifact.made_by("token_shards")
    token_shards.write_token_shard(path, shaped, ["made"], "made", 0, made_by, (0,))


def bare(
    model: PreTrainedModel, shard: token_shards.TokenShard, last: int, batch: int
) -> Callable[[], None]:
    """A forward pass over a shard through the first `last` + 1 blocks and nothing after."""
    stump = copy.deepcopy(families.backbone(model))
    stump.layers = stump.layers[: last + 1]
    stump.norm = torch.nn.Identity()
    starts = packing.segment_starts(shard.document)

    @torch.no_grad()
    def run() -> None:
        for first in range(0, len(shard.tokens), batch):
            part = slice(first, first + batch)
            stump(**inputs.model_inputs(shard.tokens[part], starts[part], model.device))

    return run


def caching(
    model: PreTrainedModel, path: Path, points: Mapping[str, Point], folder: Path, batch: int
) -> Callable[[], None]:
    """The whole body of a caching job, the loading of the model apart."""
    reading = Reading(points, "used")
    first = token_shards.read_token_shard(path)
    kept = kept_rows.kept_rows(first, DROP, False)
    measured = calibrate(model, reading, first, kept, False, "float16")
    stored = stored_points(measured, None)
    made_by = artifact.made_by("activations", model="made")

    def run() -> None:
        shard = token_shards.read_token_shard(path)
        rows = kept_rows.kept_rows(shard, DROP, False)
        cache(model, reading, stored, shard, rows, False, "float16", batch, CHUNK_ROWS,
                      folder / "a.zarr.zip", made_by)  # fmt: skip

    return run


def measure(
    shape: Mapping[str, object],
    names: Sequence[str],
    sizes: Sizes,
    pairs: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> dict[str, float | list[float]]:
    """Tokens a second of caching and of the bare pass, and their ratio: medians of `pairs` turns.

    `names` are points (hook.block), `dtype` that of the model's weights.
    """
    points = {name: Point(hook, int(layer)) for name in names for hook, layer in [name.split(".")]}
    last = max(point.layer for point in points.values())
    model = build.build(shape, sizes.vocabulary, sizes.length, 0, 0).to(device, dtype)
    model.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.h5"
        write_tokens(path, sizes)
        shard = token_shards.read_token_shard(path)
        plain = bare(model, shard, last, sizes.batch)
        full = caching(model, path, points, Path(folder), sizes.batch)
        plain(), full()  # to warm up
        times = [(seconds(plain, device), seconds(full, device)) for _ in range(pairs)]
    ratios = sorted(one / two for one, two in times)
    return {
        "tokens_a_second": statistics.median(shard.tokens.size / two for _, two in times),
        "bare_tokens_a_second": statistics.median(shard.tokens.size / one for one, _ in times),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=131_072, help="of the shard")
    parser.add_argument("--points", nargs="*", default=["resid_post.2"], help="hook.block")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes, device = Sizes(tokens=arguments.tokens), torch.device(arguments.device)
    for name, shape in SHAPES.items():
        measured = measure(shape, arguments.points, sizes, arguments.pairs, device)
        print(f"{name}: caching {measured['tokens_a_second']:,.0f} tokens/s, "
              f"{measured['ratio']:.3f} of the bare pass "
              f"({measured['ratios'][0]:.3f} to {measured['ratios'][-1]:.3f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
