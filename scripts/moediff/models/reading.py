"""A checkpoint as transformers reads it, with what it would pass over refused."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from moediff.config import quantised
from moediff.config.checkpoints import CONFIG
from moediff.core.errors import UserError, one_line
from moediff.models import checkpoint_config
from moediff.models.families import EXPERT_COUNTS
from moediff.models.weight_files import check_weights, json_object

# Elements that a number of a quantised file may stand for: 1 bit each, in numbers of 32 bits.
_PACKED = 32
# Constants of older checkpoints, which a model computes by itself.
_CONSTANT = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias)$"
)

_PLAIN = {
    "F16",
    "BF16",
    "F32",
    "F64",
}  # how safetensors calls the types of weights that are not packed
_NO_WEIGHT = re.compile(
    r"(^|\.)position_ids$"
)  # of whole numbers, which a model computes by itself
_AHEAD = "eh_proj.weight"  # joins a further token's embedding to the stream


def from_transformers(
    folder: Path,
    dtype: str,
    device: str | torch.device,
    device_map: str | None,
    gguf: str | None = None,
) -> PreTrainedModel:
    """The language model of a folder, or of its GGUF file, as its class in transformers.

    Weights of a format that is cheap to make plain are made so. Raises UserError as
    `loading.load`.
    """
    named: dict[str, Any] = {} if gguf is None else {"gguf_file": gguf}
    place = folder / gguf if gguf else folder
    if gguf is None:
        checkpoint_config.check_config(folder)
        check_weights(folder)
    try:
        if gguf:
            shapes, settings = _gguf(place)
        else:
            settings = json_object(folder / CONFIG)
            shapes = _shapes(folder, quantised.quantisation(settings) is not None)
        _check_counts(place, shapes, settings)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **named)
        checkpoint_config.prepare(config)
        auto = checkpoint_config.auto_class(config)
        _check_size(place, shapes, config)
        if gguf:
            from transformers import GgufConfig

            named["quantization_config"] = GgufConfig(
                dequantize=True
            )  # else by a kernel of the Hub
        model, found = auto.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # listed, and refused below by name
            # Packed weights are made for the device on which they come to lie.
            device_map=device_map or ({"": device} if packed(config) else None),
            **named,
        )
        if not device_map and not packed(config):
            model.to(device)
    except SafetensorError as error:
        raise UserError(
            f"{place}: its weights are not whole ({_said(error)}); copy or download that checkpoint again"
        ) from error
    except UserError:
        raise
    except Exception as error:  # config.json reaches into every line of transformers
        raise UserError(
            f"{place}: transformers cannot load it as a causal language model ({_said(error)})"
        ) from error
    _check_found(model, found, place)
    return model


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it would be were its weights not quantised, without values: to count them."""
    return _skeleton(model.config) if packed(model.config) else model


def packed(config: PreTrainedConfig) -> bool:
    """Whether the weights of a model of this config stay quantised once they are loaded."""
    settings = quantised.quantisation(config.to_dict())
    return settings is not None and quantised.method_of(settings) not in {
        *quantised.DEQUANTISED,
        "gguf",
    }


def _skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """A model of a config without values."""
    config = copy.deepcopy(config)
    for part in (config, config.get_text_config()):
        part.__dict__.pop("quantization_config", None)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model: PreTrainedModel = checkpoint_config.auto_class(config).from_config(config)
    return model


def _shapes(folder: Path, packed: bool) -> dict[str, list[int]]:
    """Shapes of the tensors of a folder's weights, without reading them.

    Raises UserError where one is of a type that holds packed weights and nothing says that they are.
    """
    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.is_file():
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  # no mapping
                    part = file.get_slice(name)
                    shapes[name], kind = part.get_shape(), part.get_dtype()
                    spare = _CONSTANT.search(name) or _NO_WEIGHT.search(name)
                    if not packed and kind not in _PLAIN and not spare:
                        raise UserError(
                            f"{path}: '{name}' is of type {kind}, which holds no plain weights, and "
                            "config.json has no quantization_config that says how to read it; take "
                            "another copy"
                        )
    return shapes


def _gguf(path: Path) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Shapes of the tensors of a GGUF file, as if they were not quantised, and its counts by config.json's
    names."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    kind = reader.fields["general.architecture"].contents()
    names = {"num_hidden_layers": f"{kind}.block_count", EXPERT_COUNTS[0]: f"{kind}.expert_count"}
    counts = {
        name: reader.fields[key].contents() for name, key in names.items() if key in reader.fields
    }
    return {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}, counts


def _check_counts(
    place: Path, shapes: Mapping[str, Sequence[int]], settings: Mapping[str, Any]
) -> None:
    """Refuse more layers or experts than the weights can be of: to build them would take for ever."""
    widest = max((size for shape in shapes.values() for size in shape), default=0)
    for what, most in (("layers", len(shapes)), ("experts", max(len(shapes), widest))):
        count = checkpoint_config.most(settings, what)
        if count > most:
            raise UserError(
                f"{place}: its config names {count} {what}, its weights are {len(shapes)} tensors of "
                f"at most {widest} rows or columns; take a config and weights that belong together"
            )


def _check_size(place: Path, shapes: Mapping[str, Sequence[int]], config: PreTrainedConfig) -> None:
    """Refuse a model far larger than its weights: what is missing would be made up, in memory."""
    held = sum(math.prod(shape) for shape in shapes.values())
    if quantised.quantisation(config.to_dict()) is not None:
        held *= _PACKED
    wanted = sum(parameter.numel() for parameter in _skeleton(config).parameters())
    if wanted > 2 * held:
        raise UserError(
            f"{place}: its config describes a model of {wanted} weights, the files hold {held}; "
            "take a config and weights that belong together"
        )


def _check_found(model: PreTrainedModel, found: Mapping[str, Any], place: Path) -> None:
    """Refuse what transformers only logs: weights made up, and weights left out."""
    absent = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if absent:
        raise UserError(
            f"{place}: {len(absent)} weights of {type(model).__name__} are missing or of another "
            f"shape ({absent[0]}); take a whole checkpoint of a causal language model"
        )
    left = sorted(found["unexpected_keys"])
    # Layers that only predict further tokens (DeepSeek-V3, GLM-4-MoE) are no part of the model.
    ahead = tuple(name.removesuffix(_AHEAD) for name in left if name.endswith(_AHEAD))
    spare = [name for name in left if not _CONSTANT.search(name) and not name.startswith(ahead)]
    if spare:
        raise UserError(
            f"{place}: {len(spare)} of its weights are not of the {type(model).__name__} that "
            f"config.json describes ({spare[0]}); take a config.json and weights that belong together"
        )


def _said(error: BaseException) -> str:
    """What an error says, in one line of bounded length."""
    short = one_line(" ".join(str(error).split()), 300)
    return f"{type(error).__name__}: {short}" if short else type(error).__name__
