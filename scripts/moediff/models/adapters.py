"""Adapters (PEFT folders): the base with the adapter's change added to its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from moediff.core.errors import UserError, first_line


def merged(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base, changed: a plain model, whose activations are those of base and adapter together.

    Raises UserError where the adapter does not fit, or is of a kind that cannot be merged (it adds
    tokens to the text, or acts on quantised weights).
    """
    from peft import PeftConfig, PeftModel

    if getattr(base.config, "quantization_config", None) is not None:
        raise UserError(
            f"{folder}: its base model is quantised, and an adapter is merged into plain weights; "
            "name an unquantised base in adapter_config.json"
        )
    try:
        settings = PeftConfig.from_pretrained(str(folder))
        settings.inference_mode = True
        if settings.is_prompt_learning:
            raise UserError(
                f"{folder}: an adapter of the kind {settings.peft_type.value} adds tokens to the text "
                "and cannot be merged into weights; its rows would be of another text"
            )
        adapted = PeftModel.from_pretrained(base, str(folder), config=settings, torch_device="cpu")
        _check_weights(adapted.load_adapter(str(folder), "default", torch_device="cpu"), folder)
        model: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    except UserError:
        raise
    except Exception as error:  # adapter_config.json reaches into every line of peft
        raise UserError(
            f"{folder}: peft cannot add this adapter to its base "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    return model


def _check_weights(found: Any, folder: Path) -> None:
    """Refuse an adapter with weights that its base has no place for, or without some: peft only warns."""
    wrong = sorted([*found.missing_keys, *found.unexpected_keys])
    if wrong:
        raise UserError(
            f"{folder}: {len(wrong)} of its weights are missing or not of its base ({wrong[0]}); name "
            "the base that it was trained on in adapter_config.json"
        )
