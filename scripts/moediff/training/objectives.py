"""What a language model is trained to do: predict the next token."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from moediff.corpus.token_shards import TokenSplit
from moediff.models.families import backbone
from moediff.models.inputs import model_inputs


def token_losses(
    model: PreTrainedModel, split: TokenSplit, rows: np.ndarray, device: Any
) -> Tensor:
    """Cross-entropy in nats of every target: [batch, position - 1]; 0 where there is no target."""
    tokens, starts, is_target = split.tokens[rows], split.starts[rows], split.is_target[rows]
    hidden = backbone(model)(**model_inputs(tokens, starts, device)).last_hidden_state
    logits = model.get_output_embeddings()(hidden[:, :-1])  # [batch, position - 1, vocabulary]
    target = torch.from_numpy(tokens[:, 1:].astype(np.int64)).to(device)
    target = target.masked_fill(~torch.from_numpy(is_target).to(device), -100)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
    return loss.view(target.shape)
