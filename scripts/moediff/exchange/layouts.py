"""What the layouts of other libraries share: plain tables, thresholds, files that anyone wrote.

Formats only: no code of another library runs. Arithmetic is float64, files are float32. Pickles
(.pt) are not read.

What fires is kept, up to the rounding of sums in float32. Here a feature fires when its score,
pre-activation times weight (RANKS of its decoder norms), is positive and at least its threshold.
Elsewhere the pre-activation, or the score, must exceed a number. So a threshold moves by one float32
and, where the pre-activation is asked, is divided by the weight; folding units into a decoder
changes its norms, but no threshold on a pre-activation.

A library that has no threshold (TopK) gives infinite ones: such a dictionary fires nothing until it
is asked with its rule, `encode(rows, ("topk", k))`, never everything without a word.

    D  summed widths of the sources      F  features
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.config.recipes import export_fault
from moediff.core import artifact
from moediff.core.errors import UserError, first_line
from moediff.dictionaries.blocks import RANKS
from moediff.dictionaries.dictionary import Dictionary

Metadata = dict[str, Any]


def weights_of(dictionary: Dictionary) -> Tensor:
    """What a pre-activation is multiplied by to be a score: [F]."""
    return RANKS[dictionary.shape.rank](dictionary.norms().detach()).float()


def below(numbers: Tensor) -> Tensor:
    """The next smaller float32: to exceed it is to reach the number."""
    return numbers.float().nextafter(torch.tensor(-math.inf))


def above(numbers: Tensor) -> Tensor:
    """The next larger float32: to reach it is to exceed the number."""
    return numbers.float().nextafter(torch.tensor(math.inf))


def _least(scores: Tensor, weight: Tensor) -> Tensor:
    """Smallest float32 pre-activation whose product with `weight`, in float32, reaches a score."""
    found = below(below(scores / weight))
    for _ in range(4):  # a quotient is less than two numbers off
        found = torch.where(found * weight < scores, above(found), found)
    return found


def bounds_on_values(dictionary: Dictionary) -> Tensor:
    """Pre-activation [F] that a feature must exceed to fire; 0 where its decoder is zero."""
    scores, weight = dictionary.threshold.float(), weights_of(dictionary)
    found = below(_least(scores, weight.clamp_min(torch.finfo(torch.float32).tiny)))
    return torch.where((scores > 0) & (weight > 0), found, 0.0)  # a negative score never fires


def thresholds_from(bounds: Tensor, dictionary: Dictionary) -> Tensor:
    """Scores [F] to reach from pre-activations to exceed; a feature without a decoder never fires."""
    weight = weights_of(dictionary)
    return torch.where(weight > 0, above(bounds) * weight, 0.0)


def check_thresholds(dictionary: Dictionary, folder: Path) -> None:
    """Refuse to write a dictionary that fires by a rule only."""
    if not dictionary.threshold.isfinite().all():
        raise UserError(
            f"{folder}: the dictionary has no finite thresholds (one read from TopK has none); set "
            f"dictionary.threshold to scores that it fires at, then write it"
        )


def check_normalisation(dictionary: Dictionary, folder: Path, layout: str) -> None:
    """Refuse a dictionary whose rows are shown to it as a layout cannot show them."""
    why = export_fault(layout, dictionary.normaliser.name)
    if why:
        raise UserError(f"{folder}: {why}")


def source_names(dictionary: Dictionary, metadata: Mapping[str, Any]) -> list[str]:
    """Names of the sources, in order."""
    sources = range(len(dictionary.shape.widths))
    return list(metadata.get("sources") or (f"source-{s}" for s in sources))


def imported(
    library: str, sources: Sequence[str], recipe: Mapping[str, Any], config: Mapping[str, Any]
) -> Metadata:
    """Metadata of a dictionary that another library wrote; `config` is its own."""
    return artifact.made_by(
        "exchange", library=library, sources=list(sources), recipe=dict(recipe), config=dict(config)
    )


def write_floats(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    counts: Mapping[str, Tensor] | None = None,
) -> None:
    """Write tensors as float32, and `counts` as they are, with metadata beside them."""
    floats = {name: tensor.float() for name, tensor in tensors.items()}
    artifact.write_tensors(path, floats | dict(counts or {}), metadata)


def read_floats(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file of anyone, in float64. Raises UserError when it is not whole."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: tensor.double() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({first_line(error)}); download or export it again"
        ) from error


def checked(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The tensors that `shapes` names. Raises UserError for one that is absent, unknown or unsound."""
    for name in sorted({*tensors, *shapes}):
        if name not in tensors:
            raise UserError(f"{path}: tensor '{name}' is missing; take a whole export")
        if name not in shapes:
            raise UserError(
                f"{path}: tensor '{name}' is not known here; what it does would be lost"
            )
        if tuple(tensors[name].shape) != shapes[name]:
            raise UserError(
                f"{path}: tensor '{name}' has shape {list(tensors[name].shape)}, the config says "
                f"{list(shapes[name])}; take weights and config of one export"
            )
        if not tensors[name].isfinite().all():
            raise UserError(
                f"{path}: tensor '{name}' is not finite; take a run that did not diverge"
            )
    return dict(tensors)


def read_config(path: Path, needed: Sequence[str], advice: str) -> Metadata:
    """A JSON object with certain keys. Raises UserError when it is none, with advice for a key."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        absent = [name for name in needed if name not in config]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read as a config ({first_line(error)}); give the folder that the "
            f"library wrote"
        ) from error
    if absent:
        raise UserError(f"{path}: key '{absent[0]}' is missing; {advice}")
    return config


def whole_number(path: Path, config: Mapping[str, Any], name: str, most: float = math.inf) -> int:
    """A count of a config, rounded (SAELens lets BatchTopK's k be a fraction)."""
    value = config.get(name)
    if not isinstance(value, int | float) or not 1 <= value <= most:
        raise UserError(f"{path}: {name} is {value}; it must be a number from 1 to {most:g}")
    return round(value)
