"""The section `activations`: hook points, layers, shards; its checks."""

from __future__ import annotations

from typing import NamedTuple

from moediff.config.base import ROW_SPLITS, Config, as_list
from moediff.config.corpus import shard_count
from moediff.config.kinds import EXTERNAL, LOADED, kind, language_models
from moediff.config.layout import point_name
from moediff.config.models import layer_count, seeds
from moediff.config.rows import row_paths
from moediff.core.errors import ConfigError

# A row whose norm is more than so many times the median is massive. Pretrained models write a few activations
# a thousand times the median at a few tokens (Sun et al. 2024, 2402.17762), whose rows then have norms tens
# to hundreds of times the median; others stay within a few times it. dictionary_learning advises 10 too.
MASSIVE_NORM = 10


def points(config: Config) -> dict[str, tuple[str, float]]:
    """Hook points that are read of every model: name -> hook and layer as the config gives them."""
    activations = config["activations"]
    return {
        point_name(hook, layer): (hook, layer)
        for layer in as_list(activations["layer"])
        for hook in as_list(activations["hook"])
    }


def resolve_layer(layer: float, layers: int, model: str) -> int:
    """Index of a block from an index (a whole number) or a share of depth; 1.0 is the last block."""
    index = layer if isinstance(layer, int) else min(int(layer * layers + 1e-9), layers - 1)
    if index >= layers or (isinstance(layer, float) and layer > 1):
        raise ConfigError(
            f"activations.layer: {layer} does not exist in model '{model}', which has {layers} "
            f"layers (0 to {layers - 1}, or a share of depth from 0.0 to 1.0)"
        )
    return index


def dropped(config: Config, model: str) -> Config:
    """What is left out of a model's rows, with what `auto` says for its kind."""
    drop = config["activations"]["drop"]
    if drop["massive_norm"] != "auto":
        return drop
    return drop | {"massive_norm": MASSIVE_NORM if kind(config, model) is LOADED else None}


def model_shards(config: Config, model: str, split: str) -> int:
    """Activation shards of a model: one for each of its `rows`, or for each token shard."""
    if kind(config, model) is EXTERNAL:
        return len(row_paths(config, model, split))
    return shard_count(config, split)


class SharedShards(NamedTuple):
    """Shards of one model that one job makes."""

    model: str
    seed: int
    parts: list[tuple[str, int]]  # split and number of each shard


def shared_shards(config: Config) -> list[SharedShards]:
    """Shards by job where `shards_per_job` puts several together; none where each has a job of its own."""
    size = config["shards_per_job"]
    if size == 1:
        return []
    found = []
    for model in language_models(config):
        parts = [
            (split, shard)
            for split in ROW_SPLITS
            for shard in range(model_shards(config, model, split))
        ]
        for seed in seeds(config, model):
            together = [parts[start : start + size] for start in range(0, len(parts), size)]
            found += [SharedShards(model, seed, some) for some in together]
    return found


def check_hook(config: Config) -> None:
    for name in config["models"]:
        layers = layer_count(config, name)
        if layers is not None:
            for _, layer in points(config).values():
                resolve_layer(layer, layers, name)
