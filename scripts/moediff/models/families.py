"""What the MoE families are: the one place that knows the parts, the rules and the names of each.

Nearly every router gives (logits [token, expert], gates [token, k], experts [token, k]): what the
experts are then called with. A family is added by one line of FAMILIES and one tiny model in
tests/families.py. One that is not in the table is read by its structure, as far as that goes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from moediff.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# What configs call the number of experts in a layer, and the number that a token uses.
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k")
FEED_FORWARDS = ("mlp", "feed_forward", "block_sparse_moe", "moe", "ffn")
_EXPERTS = ".experts."  # in the names of the experts' parameters


class Routed(NamedTuple):
    """What a router decides: the common form of all families."""

    logits: Tensor  # [token, expert]
    gates: Tensor  # [token, k], weights of the experts
    experts: Tensor  # [token, k], int64


# --- how gates follow from logits ---------------------------------------------------------------


def softmax(logits: Tensor) -> Tensor:
    """Probabilities [token, expert] of routers whose experts compete."""
    return logits.float().softmax(-1)


def sigmoid(logits: Tensor) -> Tensor:
    """Scores [token, expert] of routers that judge each expert by itself; they do not sum to 1."""
    return logits.float().sigmoid()


def _always(config: PreTrainedConfig) -> bool:
    return True


def _never(config: PreTrainedConfig) -> bool:
    return False


def _as_config_says(config: PreTrainedConfig) -> bool:
    return bool(config.norm_topk_prob)


def _scores_of_chosen(
    family: Family, config: PreTrainedConfig, logits: Tensor, experts: Tensor
) -> Tensor:
    """Scores among all experts, of the chosen; renormalised and scaled where the family does so."""
    gates = family.scores(logits).gather(-1, experts)  # [token, k]
    if family.renormalised(config):
        gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)  # no gate where no score is above 0
    return gates * config.routed_scaling_factor if family.scaled else gates


def _softmax_of_chosen(
    family: Family, config: PreTrainedConfig, logits: Tensor, experts: Tensor
) -> Tensor:
    """A softmax over the logits of the chosen alone."""
    return logits.gather(-1, experts).float().softmax(-1)


def _sparse_mixer(
    family: Family, config: PreTrainedConfig, logits: Tensor, experts: Tensor
) -> Tensor:
    """SparseMixer (2409.12136): slot by slot a softmax over the experts not chosen before.

    Left out of it are those whose logit is further below the chosen one's than the config's
    jitter, relative to their size; an expert that is better than the chosen one counts.
    """
    gates, left = [], logits  # left: [token, expert], -inf where an earlier slot has the expert
    for chosen in experts.split(1, -1):  # [token, 1]
        best = logits.gather(-1, chosen)
        far = (best - logits) / logits.abs().clamp(min=best) > 2 * config.router_jitter_noise
        gates.append(left.masked_fill(far, -torch.inf).softmax(-1).gather(-1, chosen))
        left = left.scatter(-1, chosen, -torch.inf)
    return torch.cat(gates, -1)


# --- what a router's module returns -------------------------------------------------------------


def _as_returned(out: Any, config: PreTrainedConfig) -> Any:
    return out


def _in_order(routed: Routed) -> tuple[Tensor, ...]:
    return tuple(routed)


def _from_table(out: Any, config: PreTrainedConfig) -> Any:
    """Of a router that returns its gates as a table [token, expert] with 0 for what is not chosen."""
    table, logits = out
    return logits, *table.topk(config.num_experts_per_tok, -1)


def _to_table(routed: Routed) -> tuple[Tensor, ...]:
    logits, gates, experts = routed
    return torch.zeros_like(logits).scatter_add(-1, experts, gates), logits


# --- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """How one family routes."""

    router: str  # place of the router in a decoder block
    renormalised: Callable[[PreTrainedConfig], bool]  # whether a token's gates are made to sum to 1
    scores: Callable[[Tensor], Tensor] = softmax  # probabilities from logits, bias and groups apart
    scaled: bool = False  # whether the config's routed_scaling_factor then multiplies the gates
    weigh: Callable[..., Tensor] = _scores_of_chosen  # gates of experts that are given
    choice_bias: str | None = None  # the router's tensor [expert] that chooses but does not weigh
    read: Callable[[Any, PreTrainedConfig], Any] = _as_returned  # a router's output as `Routed`
    write: Callable[[Routed], Any] = _in_order  # and back
    ignores_packing: bool = False  # transformers runs it without a look at packed positions

    def gates_sum(self, config: PreTrainedConfig) -> float | None:
        """What a token's gates sum to; None where that is not fixed."""
        if not self.renormalised(config):
            return None
        return config.routed_scaling_factor if self.scaled else 1.0


# model_type of transformers -> family.
FAMILIES = {
    "qwen3_moe": Family("mlp.gate", _as_config_says),
    "olmoe": Family("mlp.gate", _as_config_says),
    "mixtral": Family("mlp.gate", _always),
    "qwen2_moe": Family("mlp.gate", _as_config_says),
    "deepseek_v2": Family("mlp.gate", _never, scaled=True),
    "deepseek_v3": Family(
        "mlp.gate", _as_config_says, sigmoid, scaled=True, choice_bias="e_score_correction_bias"
    ),
    "gpt_oss": Family("mlp.router", _always, weigh=_softmax_of_chosen, ignores_packing=True),
    "granitemoe": Family("block_sparse_moe.router", _always, weigh=_softmax_of_chosen),
    "glm4_moe": Family(
        "mlp.gate", _as_config_says, sigmoid, scaled=True, choice_bias="e_score_correction_bias"
    ),
    "phimoe": Family("mlp.router", _never, weigh=_sparse_mixer),
    # Its gates scale what goes into an expert, all others' what comes out.
    "llama4_text": Family(
        "feed_forward.router", _never, sigmoid, read=_from_table, write=_to_table
    ),
}


# Of positions in time, height and width these see that sequences are packed only where a fourth, the
# place in the text, stands before them.
_FOUR_POSITIONS = (
    "qwen2_vl_text", "qwen2_5_vl_text", "glm4v_text", "glm4v_moe_text", "glm_ocr_text",
)  # fmt: skip


def family_of(model: PreTrainedModel) -> Family | None:
    """The family of a model; None for one that is not in the table."""
    return FAMILIES.get(model.config.get_text_config().model_type)


def known_family(model: PreTrainedModel) -> Family:
    """The family of a model. Raises UserError for one that is not in the table."""
    family = family_of(model)
    if family is None:
        raise UserError(
            f"{type(model).__name__}: the rule by which its router makes gates of logits is not known; "
            "add its family to models/families.py"
        )
    return family


def ignores_packing(model: PreTrainedModel) -> bool:
    """Whether transformers would let the attention of packed documents cross, unless masked."""
    family = family_of(model)
    return family is not None and family.ignores_packing


def needs_four_positions(model: PreTrainedModel) -> bool:
    """Whether the packed positions of a sequence are to be given fourfold."""
    return model.config.get_text_config().model_type in _FOUR_POSITIONS


def expert_count(model: PreTrainedModel) -> int | None:
    """Experts of an MoE layer; None where the config names none."""
    return _named(model, EXPERT_COUNTS)


def chooses_by_groups(model: PreTrainedModel) -> bool:
    """Whether groups of experts are chosen first, and experts of these alone (DeepSeek-V3)."""
    return (_named(model, ("n_group",)) or 1) > 1


def top_k(model: PreTrainedModel) -> int | None:
    """Experts that a token uses in an MoE layer; None where the config names none."""
    return _named(model, TOP_K)


def _named(model: PreTrainedModel, names: tuple[str, ...]) -> int | None:
    config = model.config.get_text_config()
    return next((getattr(config, name) for name in names if getattr(config, name, None)), None)


# --- parts of a model ---------------------------------------------------------------------------


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its unembedding."""
    return model.base_model


def language_model(model: PreTrainedModel) -> nn.Module:
    """What a text token passes through, without its unembedding.

    The backbone, or, of a multimodal model, that part of it: the towers of images and sounds are
    beside it.
    """
    if model.config.get_text_config() is model.config:
        return backbone(model)
    return model.get_decoder()


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks: the one list of modules as long as the model is deep.

    Of several it is the one whose modules have a feed-forward. Raises UserError.
    """
    depth = model.config.get_text_config().num_hidden_layers
    lists = [part for part in language_model(model).modules() if isinstance(part, nn.ModuleList)]
    deep = [part for part in lists if len(part) == depth]
    stacks = [part for part in deep if any(hasattr(part[0], n) for n in FEED_FORWARDS)] or deep
    if len(stacks) != 1:
        named = ", ".join(
            f"{name} ({len(module)} x {type(module[0]).__name__})"
            for name, module in language_model(model).named_modules()
            if isinstance(module, nn.ModuleList) and len(module)
        )
        raise UserError(
            f"{type(model).__name__}: {len(stacks)} stacks of {depth} decoder blocks were found, one "
            f"is needed; its lists of modules: {named or 'none'}"
        )
    return stacks[0]


def residual_scale(block: nn.Module) -> float:
    """What a block multiplies by whatever it adds to the stream (Granite; 1 in all others)."""
    return getattr(block, "residual_multiplier", 1.0)


def is_expert_parameter(name: str) -> bool:
    """Whether a parameter of this name is that of routed experts, of which a token uses some."""
    return _EXPERTS in name


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
    held = _holder(block)
    if held is None:
        return None
    name, holder = held
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


def routers(model: PreTrainedModel) -> dict[int, nn.Module]:
    """The router of every MoE layer; empty for a dense model. Raises UserError as `find_router`."""
    every = {layer: find_router(model, block) for layer, block in enumerate(blocks(model))}
    return {layer: router for layer, router in every.items() if router is not None}


# --- what a router gave, in the common form -----------------------------------------------------


def read_routed(model: PreTrainedModel, out: Any) -> Routed | None:
    """A router's output in the common form; None for one of a form that is not known."""
    family = family_of(model)
    if family is not None:
        try:
            out = family.read(out, model.config.get_text_config())
        except (TypeError, ValueError):
            return None
    if not (
        isinstance(out, tuple)
        and len(out) == 3
        and all(isinstance(part, Tensor) and part.ndim > 1 for part in out)
        and out[1].shape == out[2].shape
        and not out[2].is_floating_point()
    ):
        return None
    return Routed(*out)


def write_routed(model: PreTrainedModel, routed: Routed) -> Any:
    """The common form as the model's routers return it: the inverse of `read_routed`."""
    family = family_of(model)
    return tuple(routed) if family is None else family.write(routed)


def gates_of(model: PreTrainedModel, logits: Tensor, experts: Tensor) -> Tensor:
    """Gates [token, k] that a family gives to `experts` [token, k], whether it would choose them or not.

    Equal to the bit to the router's own where it chose just these. Raises UserError as `known_family`.
    """
    family, config = known_family(model), model.config.get_text_config()
    return family.weigh(family, config, logits, experts)
