"""From the stream to logits: the final norm and the unembedding of a model, apart from its blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moediff.core.errors import UserError
from moediff.models.families import language_model

FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
CLOSE = 1e-3  # of logits to the model's own, relative: in half precision sums differ by their order


def unembedding(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The map of rows of the stream [..., d_model] to float logits [..., vocabulary], as the model makes
    them.

    Raises UserError where no final norm or no unembedding is found.
    """
    norm = next(
        (part for name, part in language_model(model).named_children() if name in FINAL_NORMS), None
    )
    head = model.get_output_embeddings()
    if norm is None or head is None:
        missing = "final norm" if norm is None else "unembedding"
        parts = ", ".join(name for name, _ in language_model(model).named_children())
        raise UserError(f"{type(model).__name__}: no {missing} was found; its parts: {parts}")
    config = model.config.get_text_config()
    divided = getattr(config, "logits_scaling", None) or 1.0  # Granite
    capped = getattr(config, "final_logit_softcapping", None)  # Gemma 2

    @torch.no_grad()
    def unembed(rows: Tensor) -> Tensor:
        logits = head(norm(rows.to(head.weight.dtype))).float() / divided
        return logits if capped is None else capped * torch.tanh(logits / capped)

    return unembed


def prove(
    model: PreTrainedModel, unembed: Callable[[Tensor], Tensor], last: Tensor, **inputs: Any
) -> None:
    """Raise UserError where the logits of the last block's rows [batch, position, d_model] are not the
    model's.

    `inputs` are those of the pass that gave the rows.
    """
    with torch.no_grad():
        wanted = model(**inputs).logits.float()
    found = unembed(last).to(wanted.device)
    if float((found - wanted).abs().max()) > CLOSE * max(1.0, float(wanted.abs().max())):
        raise UserError(
            f"{type(model).__name__}: its logits are not the unembedding of the normed stream; what a layer "
            "says cannot be read early"
        )
