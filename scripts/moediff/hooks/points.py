"""Hook points of a causal language model, found by structure.

Of a decoder block, in the order in which it computes them:

    resid_pre    what enters it                     resid_mid    resid_pre + attn_out
    attn_out     what attention adds                mlp_out      what the feed-forward adds
                                                    resid_post   what leaves it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from moediff.core.errors import UserError
from moediff.models.families import FEED_FORWARDS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HOOKS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
_BEFORE_FEED_FORWARD = ("resid_pre", "attn_out", "resid_mid")
# Norms of what a part gives, before it is added to the stream (OLMo 2, Gemma, GLM 4).
_AFTER_ATTENTION = ("post_self_attn_layernorm", "post_attention_layernorm")
_AFTER_FEED_FORWARD = ("post_feedforward_layernorm", "post_mlp_layernorm")


@dataclass(frozen=True)
class Point:
    """A hook at a decoder block."""

    hook: str  # one of HOOKS
    layer: int

    def __str__(self) -> str:
        return f"{self.hook}.{self.layer}"

    @classmethod
    def named(cls, name: str) -> Point:
        """The point of a name as `str` gives it. Raises UserError for a name that is none."""
        hook, _, layer = name.rpartition(".")
        if hook not in HOOKS or not layer.isdigit():
            raise UserError(f"'{name}' is no hook point of a model")
        return cls(hook, int(layer))

    @property
    def feed_forwards(self) -> int:
        """How many blocks' feed-forwards, so how many routings, have been done at this point."""
        return self.layer + (self.hook not in _BEFORE_FEED_FORWARD)


def _child(block: nn.Module, names: Sequence[str]) -> nn.Module | None:
    return next((getattr(block, name) for name in names if hasattr(block, name)), None)


def _attention(block: nn.Module) -> nn.Module | None:
    named = ((name, part) for name, part in block.named_children() if "norm" not in name)
    return next(
        (part for name, part in named if "attn" in name or name.endswith("attention")), None
    )


def feed_forward(block: nn.Module) -> nn.Module | None:
    """A block's feed-forward: its experts, where it has some; None where it has no such part."""
    return _child(block, FEED_FORWARDS)


def adder(model: PreTrainedModel, block: nn.Module, hook: str) -> nn.Module:
    """The part whose output is added to the stream: attention or feed-forward, or the norm after it."""
    after_feed_forward = _child(block, _AFTER_FEED_FORWARD)
    if hook == "mlp_out":
        found = after_feed_forward or feed_forward(block)
    elif after_feed_forward is not None:  # then attention has a norm after it too
        found = _child(block, _AFTER_ATTENTION)
    else:
        found = _attention(block)
    if found is None:
        parts = ", ".join(name for name, _ in block.named_children())
        raise UserError(
            f"{type(model).__name__}: no {hook} was found in {type(block).__name__}; its parts: {parts}"
        )
    return found


def first_output(value: Any) -> Any:
    """What a part returns first: the stream, or what is added to it."""
    return value[0] if isinstance(value, (tuple, list)) and len(value) else value


def stream_of(given: tuple, named: dict[str, Any]) -> Tensor:
    """The stream among the arguments of a block."""
    return given[0] if given else named["hidden_states"]
