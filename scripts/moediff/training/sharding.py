"""A model in parts: each rank holds some of every parameter, and a whole block only while it runs (FSDP2)."""

from __future__ import annotations

from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel

from moediff.models.families import backbone, blocks


def shard(model: PreTrainedModel) -> None:
    """Leave to each rank its part of every parameter, in place; gradients are then summed, not meant.

    One unit a decoder block, one for all else of the backbone, one for the unembedding, which is called by
    itself.
    """
    for unit in (*blocks(model), backbone(model), model.get_output_embeddings()):
        found: FSDPModule = fully_shard(unit)
        found.set_gradient_divide_factor(1.0)
        found.set_force_sum_reduction_for_comms(True)  # gloo knows no other
