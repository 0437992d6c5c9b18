"""Rows of quantised and multimodal checkpoints are those of each document alone, by the model meant."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from checkpoints import MULTIMODAL, multimodal, save_fp8, save_mxfp4
from conftest import cached
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import read_token_shard
from moediff.models import fetching, loading


def save_multimodal(kind: str) -> Callable[[Path], PreTrainedModel]:
    def save(folder: Path) -> PreTrainedModel:
        model = multimodal(kind)
        model.save_pretrained(folder)
        return model

    return save


KINDS = {"fp8": save_fp8, "mxfp4": save_mxfp4} | {
    name: save_multimodal(name) for name in MULTIMODAL
}


def alone(model: PreTrainedModel, shard, name: str) -> np.ndarray:
    """What leaves the module `name` [sequence, position, d_model], each document run by itself, unpacked."""
    taken: list[torch.Tensor] = []
    block = model.get_submodule(name)
    handle = block.register_forward_hook(
        lambda _, __, out: taken.append(out[0] if isinstance(out, tuple) else out)
    )
    starts = segment_starts(shard.document)
    rows = []
    for tokens, start in zip(shard.tokens, starts, strict=True):
        edges = [*np.flatnonzero(start), len(tokens)]
        for first, last in pairwise(edges):
            ids = torch.from_numpy(tokens[first:last].astype(np.int64))[None]
            with torch.no_grad():
                model(input_ids=ids, use_cache=False)
            rows.append(taken.pop().reshape(last - first, -1))
    handle.remove()
    return torch.cat(rows).numpy().reshape(*shard.tokens.shape, -1)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_rows_are_those_of_each_document_alone(kind: str, token_shard, tmp_path: Path) -> None:
    model, shard = KINDS[kind](tmp_path / "checkpoint"), read_token_shard(token_shard(sequences=6))
    loaded = loading.load(fetching.fetch(str(tmp_path / "checkpoint"), None))
    stored = cached(loaded, shard, tmp_path / "a.zarr.zip", dtype="float32")
    stack = "model.layers.1" if kind in ("fp8", "mxfp4") else "model.language_model.layers.1"
    place = {
        "idefics3": "model.text_model.layers.1",
        "llama4": "language_model.model.layers.1",
    }.get(kind, stack)
    wanted = alone(model, shard, place)
    at = stored.read("sequence") - shard.first, stored.read("position")
    assert stored.count > 150
    # The weights of the quantised come by way of bfloat16.
    bound = 2e-2 if kind in ("fp8", "mxfp4") else 2e-4
    np.testing.assert_allclose(
        stored.rows(0, stored.count).numpy(), wanted[at], rtol=0, atol=bound * np.abs(wanted).max()
    )
