"""Hook points of a causal language model, found by structure: read activations while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.errors import UserError
from moediff.models import backbone

HOOKS = ("resid_post", "resid_mid", "mlp_out")
_MLP_NAMES = ("mlp", "feed_forward", "block_sparse_moe", "moe", "ffn")


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks: the one ModuleList as long as the model is deep."""
    depth = model.config.get_text_config().num_hidden_layers
    found = [
        module
        for module in backbone(model).modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and _is_block(module[0])
    ]
    if len(found) != 1:
        raise UserError(
            f"{type(model).__name__}: {len(found)} stacks of {depth} decoder blocks were found, "
            "one is needed; this family has no hook points yet"
        )
    return found[0]


def _is_block(module: nn.Module) -> bool:
    return any(hasattr(module, name) for name in _MLP_NAMES)


def _mlp(block: nn.Module) -> nn.Module:
    return next(getattr(block, name) for name in _MLP_NAMES if hasattr(block, name))


def _first_tensor(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple) else value


def _watch(block: nn.Module, hook: str, take: Callable[[Tensor], None]) -> Any:
    """Register on one block; `take` receives [batch, position, d_model] at the hook point.

    resid_post is what the block returns, mlp_out what its feed-forward adds to the residual
    stream, resid_mid the stream before that. Blocks that normalise after the feed-forward (OLMo 2,
    Gemma) add the normalised output, and some feed the stream to the feed-forward as it is.
    """
    if hook == "resid_post":
        return block.register_forward_hook(lambda _, args, out: take(_first_tensor(out)))
    after = getattr(block, "post_feedforward_layernorm", None)
    if hook == "mlp_out":
        part = _mlp(block) if after is None else after
        return part.register_forward_hook(lambda _, args, out: take(_first_tensor(out)))
    before = getattr(block, "pre_feedforward_layernorm", None)
    if before is None:
        names = ("post_attention_layernorm", "ln_2")
        before = next((getattr(block, name) for name in names if hasattr(block, name)), None)
        if after is not None:
            before = _mlp(block)
    if before is None:
        raise UserError(
            f"{type(block).__name__}: no resid_mid was found; its parts: "
            f"{', '.join(name for name, _ in block.named_children())}"
        )
    return before.register_forward_pre_hook(lambda _, args: take(args[0]))


class _Reached(Exception):
    """Ends a forward pass at the hook point: no layer after it is computed."""


class Capture:
    """Runs a model up to one hook point and returns the activations there."""

    def __init__(self, model: PreTrainedModel, hook: str, layer: int) -> None:
        stack = blocks(model)
        if layer >= len(stack):
            raise UserError(f"layer {layer} does not exist; the model has {len(stack)} layers")
        self.model = model
        self.taken: Tensor | None = None
        self.handle = _watch(stack[layer], hook, self._take)

    def _take(self, activations: Tensor) -> None:
        self.taken = activations
        raise _Reached

    @torch.no_grad()
    def __call__(self, **inputs: Any) -> Tensor:
        """Activations [batch, position, d_model] of one forward pass."""
        with suppress(_Reached):
            backbone(self.model)(**inputs)
        taken, self.taken = self.taken, None
        if taken is None:
            raise UserError(
                f"{type(self.model).__name__}: its forward pass never met the hook point"
            )
        return taken

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()
