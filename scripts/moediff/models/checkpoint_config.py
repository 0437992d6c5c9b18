"""What a checkpoint's config.json may ask for, looked at before transformers builds anything of it.

It is read by transformers as it stands: it may ask for code of the Hub, for a size that no machine
holds, or name no number where a number belongs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    PreTrainedConfig,
)

from moediff.config import checkpoints, quantised
from moediff.core.errors import UserError
from moediff.models.families import EXPERT_COUNTS, TOP_K
from moediff.models.weight_files import json_object

# What configs call their sizes. Each is a whole number of 1 or more; some may be left open.
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_NEEDED = (
    *_LAYERS, "hidden_size", "n_embd", "d_model", "num_attention_heads", "n_head", "vocab_size",
)  # fmt: skip
_OPEN = (
    *EXPERT_COUNTS, *TOP_K, "num_key_value_heads", "head_dim", "moe_intermediate_size",
    "max_position_embeddings",
)  # fmt: skip
_MAY_BE_NONE = (*EXPERT_COUNTS, *TOP_K)  # 0: a dense model
# By what attention and experts are computed. All give the same numbers; others come from the Hub, or
# need a package of their own.
_ATTENTION = ("eager", "sdpa")
_EXPERTS = ("eager", "batched_mm", "grouped_mm")


def check_config(folder: Path) -> None:
    """Refuse a config.json that asks for what is not done here, or has no number where one belongs."""
    path = folder / checkpoints.CONFIG
    found = json_object(path)
    why = checkpoints.config_fault(found)
    if why:
        raise UserError(f"{folder}: {why}")
    for key, value in _sizes(found):
        least = 0 if key in _MAY_BE_NONE else 1
        if value is None and key in _OPEN:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{path}: {key} is {value!r}; it must be a whole number from {least}")


def most(found: Mapping[str, Any], what: str) -> int:
    """The most `layers` or `experts` that a config.json names of any part; 0 where it names none."""
    names = (*_LAYERS, "depth") if what == "layers" else EXPERT_COUNTS
    every = (value for key, value in checkpoints.everywhere(found) if key in names)
    return max((value for value in every if isinstance(value, int)), default=0)


def _sizes(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of the sizes of the language model."""
    text = found.get("text_config")
    part = text if isinstance(text, Mapping) else found
    yield from ((key, part[key]) for key in (*_NEEDED, *_OPEN) if key in part)


def prepare(config: PreTrainedConfig) -> None:
    """Have transformers compute by its own code alone, whatever config.json asks for, and load plain weights.

    Weights that it can make plain as it loads them are: its other way is a kernel of the Hub.
    """
    attention, experts = config._attn_implementation, config._experts_implementation
    config._attn_implementation = attention if attention in _ATTENTION else None  # in all parts
    config._experts_implementation = experts if experts in _EXPERTS else None
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        settings = getattr(part, "quantization_config", None)
        if settings is not None and quantised.method_of(settings) in quantised.DEQUANTISED:
            part.quantization_config = {**settings, "dequantize": True}


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers' Auto classes that loads a model with a language model in it.

    The one that knows the architecture which config.json names, or else the first that knows such
    configs. Raises ValueError where none does.
    """
    kinds = {
        AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoModelForMultimodalLM: MODEL_FOR_MULTIMODAL_LM_MAPPING,
    }
    able = [auto for auto, known in kinds.items() if type(config) in known]
    if not able or getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{type(config).__name__}: not a causal language model, or one that transformers does not have"
        )
    named = set(config.architectures or [])
    return next((auto for auto in able if named & _names(kinds[auto][type(config)])), able[0])


def _names(classes: Any) -> set[str]:
    every = classes if isinstance(classes, (tuple, list)) else [classes]
    return {cls.__name__ for cls in every}
