"""What scripts that run a dictionary's models anew open: its sides, and the text that they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from moediff import devices, splicing
from moediff.tokens import TokenShard


def sides_and_texts(
    snakemake: Any, facts: Mapping[str, Any]
) -> tuple[list[splicing.Side], Iterator[list[tuple[TokenShard, np.ndarray]]]]:
    """Sides and texts of `splicing.splice`; `facts` are those of the job's dictionary."""
    found, params, config = snakemake.input, snakemake.params, snakemake.config
    sides = splicing.open_sides(
        facts,
        found.dictionary,
        list(params.sources),
        found.models,
        found.points,
        [config["models"][model].get("device_map") for model in params.models],
        params.drop["massive_norm"],
        devices.pick_device(config["device"]),
    )
    texts = splicing.read_texts(
        found.tokens, params.tokenizers, params.reads, params.drop, params.across
    )
    return sides, texts
