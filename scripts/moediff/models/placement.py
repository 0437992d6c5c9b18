"""Where the inputs of a model go whose layers accelerate has placed."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def input_device(model: PreTrainedModel) -> torch.device:
    """The device of a pass's inputs: that of the first weights, or the one on which they are used.

    accelerate keeps weights for which no device has room in memory or on disk until their layer runs; they
    have no device before.
    """
    if model.device.type != "meta":
        return model.device
    for part in model.modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):  # several in one
            if getattr(one, "execution_device", None) is not None:
                return torch.device(one.execution_device)
    return model.device
