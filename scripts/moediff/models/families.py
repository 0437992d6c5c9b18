"""Where the routers of each MoE family are, and what its gates are. The one table of families.

Nearly every router returns (logits [token, expert], gates [token, k], experts [token, k]): what the
experts are then called with. A family is added by one line.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from moediff.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def _one(config: PreTrainedConfig) -> float | None:
    return 1.0


def _if_renormalised(config: PreTrainedConfig) -> float | None:
    return 1.0 if config.norm_topk_prob else None


def _scaled_if_renormalised(config: PreTrainedConfig) -> float | None:
    return config.routed_scaling_factor if config.norm_topk_prob else None


def _open(config: PreTrainedConfig) -> float | None:
    return None


def softmax(logits: Tensor) -> Tensor:
    """Probabilities [token, expert] of routers whose experts compete."""
    return logits.float().softmax(-1)


def sigmoid(logits: Tensor) -> Tensor:
    """Scores [token, expert] of routers that judge each expert by itself; they do not sum to 1."""
    return logits.float().sigmoid()


def _as_returned(out: Any, config: PreTrainedConfig) -> Any:
    return out


def _from_table(out: Any, config: PreTrainedConfig) -> Any:
    """Of a router that returns its gates as a table [token, expert] with 0 for what is not chosen."""
    table, logits = out
    return logits, *table.topk(config.num_experts_per_tok, -1)


@dataclass(frozen=True)
class Family:
    """How one family routes."""

    router: str  # place of the router in a decoder block
    gates_sum: Callable[[PreTrainedConfig], float | None]  # of a row's gates; None: not fixed
    scores: Callable[[Tensor], Tensor] = softmax  # probabilities from logits, bias and groups apart
    read: Callable[[Any, PreTrainedConfig], Any] = _as_returned  # to (logits, gates, experts)


# model_type of transformers -> family.
FAMILIES = {
    "qwen3_moe": Family("mlp.gate", _if_renormalised),
    "olmoe": Family("mlp.gate", _if_renormalised),
    "mixtral": Family("mlp.gate", _one),
    "qwen2_moe": Family("mlp.gate", _if_renormalised),
    "deepseek_v2": Family("mlp.gate", _open),  # the chosen mass times routed_scaling_factor
    "deepseek_v3": Family("mlp.gate", _scaled_if_renormalised, sigmoid),
    "gpt_oss": Family("mlp.router", _one),
    "granitemoe": Family("block_sparse_moe.router", _one),
    "glm4_moe": Family("mlp.gate", _scaled_if_renormalised, sigmoid),
    "phimoe": Family("mlp.router", _open),
    # Its gates scale what goes into an expert, all others' what comes out.
    "llama4_text": Family("feed_forward.router", _open, sigmoid, _from_table),
}
FEED_FORWARDS = ("mlp", "feed_forward", "block_sparse_moe", "moe", "ffn")


def family_of(model: PreTrainedModel) -> Family | None:
    """The family of a model; None for one that is not in the table."""
    return FAMILIES.get(model.config.get_text_config().model_type)


def _holder(block: nn.Module) -> tuple[str, nn.Module] | None:
    """The part of a block with routed experts, and its name; the block where they lie in it."""
    parts = sorted(block.named_children(), key=lambda part: part[0] not in FEED_FORWARDS)
    for name, part in [*parts, ("the block", block)]:
        if any("expert" in child or "router" in child for child, _ in part.named_children()):
            return name, part
    return None


def find_router(model: PreTrainedModel, block: nn.Module) -> nn.Module | None:
    """The router of a decoder block; None where its feed-forward is dense.

    In a family that is not in the table it is the gate or router beside the experts. Raises
    UserError where there are experts and no such part.
    """
    found = _holder(block)
    if found is None:
        return None
    name, holder = found
    family = family_of(model)
    if family is not None:
        with suppress(AttributeError):
            return block.get_submodule(family.router)
    else:
        for place in ("gate", "router"):
            if isinstance(getattr(holder, place, None), nn.Module):
                return getattr(holder, place)
    parts = ", ".join(child for child, _ in holder.named_children())
    raise UserError(
        f"{type(model).__name__}: no router was found beside the experts of {name} (parts: {parts}); "
        "set activations.routing to none to go on without it"
    )


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its unembedding."""
    return model.base_model
