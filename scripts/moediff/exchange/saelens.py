"""Dictionaries of one source in the layout of SAELens, written and read.

`save` writes a JumpReLU SAE, its thresholds on pre-activations; `load` reads an SAE that SAELens
saved for inference, or as a checkpoint of its training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.dictionaries.dense import Tables
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.normalising import Whitened
from moediff.dictionaries.selection import KEEPS_K
from moediff.exchange import layouts
from moediff.exchange.layouts import Metadata

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

VERSION = "6.54.12"  # whose layout is followed


@dataclass(frozen=True)
class Architecture:
    """How an architecture of SAELens selects."""

    select: str  # in our words
    bounds: str | None = None  # name of its tensor of thresholds on pre-activations
    each: bool = False  # whether features have one each, or all the same

    def bounds_shape(self, features: int) -> dict[str, tuple[int, ...]]:
        """Shape of the tensor of thresholds, by its name; nothing where there is none."""
        return {self.bounds: (features,) if self.each else ()} if self.bounds else {}


# The last two are those of a training checkpoint; for inference SAELens saves them as jumprelu.
ARCHITECTURES = {
    "standard": Architecture("relu"),
    "jumprelu": Architecture("jumprelu", "threshold", each=True),
    "topk": Architecture("topk"),
    "batchtopk": Architecture("batchtopk", "topk_threshold"),
    "matryoshka_batchtopk": Architecture("batchtopk", "topk_threshold"),
}
NORM_SPREAD = 1e-3  # decoder norms that differ by less rank alike (rounding to bfloat16 gives 1e-4)


def save(
    dictionary: Dictionary, folder: Path | str, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write an SAE that SAELens's `SAE.load_from_disk(folder)` reads, as a JumpReLU.

    Mean, whitening and scale are folded in: it takes activations as the model gives them and
    reconstructs them. A feature whose decoder is zero never fires here; its encoder is written as zeros.
    Raises UserError for a dictionary with several sources, without thresholds, or of rows over their own
    root mean squares.
    """
    folder, metadata = Path(folder), dict(metadata or {})
    names = layouts.source_names(dictionary, metadata)
    if len(names) > 1:
        raise UserError(
            f"{folder}: SAELens holds one source, this dictionary has {len(names)} "
            f"({', '.join(names)}); export it as a crosscoder or for the Hub"
        )
    layouts.check_thresholds(dictionary, folder)
    layouts.check_normalisation(dictionary, folder, "saelens")
    mean, scale = dictionary.mean.double(), dictionary.scale.double()
    tables = Tables.of(dictionary)
    if isinstance(dictionary.normaliser, Whitened):
        matrix, inverse = dictionary.normaliser.matrix(0), dictionary.normaliser.inverse(0)
        tables = tables.raw(mean, scale, matrix.double(), inverse)
    else:
        tables = tables.raw(mean, scale)
    live = (layouts.weights_of(dictionary) > 0).double()
    tensors = {
        "W_enc": tables.encoder.T * live,
        "b_enc": tables.encoder_bias * live,
        "W_dec": tables.decoder,
        "b_dec": tables.decoder_bias,
        "threshold": layouts.bounds_on_values(dictionary),
    }
    layouts.write_floats(folder / WEIGHTS, tensors, metadata)
    config = {
        "architecture": "jumprelu",
        "d_in": dictionary.shape.widths[0],
        "d_sae": dictionary.shape.features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": VERSION,
            "sae_lens_training_version": None,
            "model_name": names[0],
            "hook_name": _transformer_lens_hook(metadata),
            "moediff": metadata,
        },
    }
    artifact.write_plain_json(folder / CONFIG, config)


def load(folder: Path | str) -> tuple[Dictionary, Metadata]:
    """The SAE in a folder of SAELens, of activations as the model gives them, and its metadata.

    `metadata["recipe"]` says how it selects, `metadata["config"]` is its cfg.json. TopK and BatchTopK
    that rescale by decoder norms give features with decoders of norm 1, whose values are SAELens's.
    Raises UserError for what cannot be kept: a normalisation at run time, an architecture that is
    none of ARCHITECTURES, or a TopK over pre-activations whose decoder norms differ.
    """
    path, weights = Path(folder) / CONFIG, Path(folder) / WEIGHTS
    needed = ("architecture", "d_in", "d_sae", "apply_b_dec_to_input", "normalize_activations")
    config = layouts.read_config(path, needed, "save it again with SAELens 6")
    architecture = ARCHITECTURES.get(config["architecture"])
    if architecture is None:
        raise UserError(
            f"{path}: architecture '{config['architecture']}' has no counterpart here; "
            f"take one of {', '.join(ARCHITECTURES)}"
        )
    if config["normalize_activations"] != "none":
        raise UserError(
            f"{path}: normalize_activations is '{config['normalize_activations']}'; fold it into "
            f"the weights with SAELens (fold_activation_norm_scaling_factor) and save again"
        )
    width, features = (layouts.whole_number(path, config, name) for name in ("d_in", "d_sae"))
    shapes = {
        "W_enc": (width, features), "b_enc": (features,), "W_dec": (features, width), "b_dec": (width,),
        **architecture.bounds_shape(features),
    }  # fmt: skip
    tensors = layouts.checked(weights, layouts.read_floats(weights), shapes)
    tables = Tables(tensors["W_enc"].T, tensors["b_enc"], tensors["W_dec"], tensors["b_dec"])
    if config["apply_b_dec_to_input"]:
        tables = tables.centred_by_decoder_bias()
    if config.get("rescale_acts_by_decoder_norm"):
        tables = tables.unit_norms()
    dictionary = tables.dictionary([width], "summed")
    recipe: Metadata = {"select": architecture.select}
    keeps_k = architecture.select in KEEPS_K
    if keeps_k:
        recipe["k"] = layouts.whole_number(path, config, "k", features)
        if not _alike(tables.decoder.norm(dim=1)):
            recipe = _ranked_by_values(path, architecture)
    if architecture.bounds or not keeps_k:
        bounds = tensors[architecture.bounds] if architecture.bounds else torch.zeros(())
        dictionary.threshold.copy_(layouts.thresholds_from(bounds.expand(features), dictionary))
    source = (config.get("metadata") or {}).get("model_name") or "source-0"
    return dictionary, layouts.imported("saelens", [source], recipe, config)


def _alike(norms: Tensor) -> bool:
    """Whether values rank as scores do, the norms being equal up to rounding."""
    return bool(norms.max() <= norms.min() * (1 + NORM_SPREAD))


def _ranked_by_values(path: Path, architecture: Architecture) -> Metadata:
    """Recipe of an SAE that ranks values although decoder norms differ: by its thresholds, if any."""
    if architecture.bounds is None:
        raise UserError(
            f"{path}: ranks pre-activations without decoder norms (rescale_acts_by_decoder_norm is "
            f"false), and its norms differ; here scores are ranked, so its TopK cannot be kept: use "
            f"it in SAELens"
        )
    return {"select": "jumprelu"}


def _transformer_lens_hook(metadata: Mapping[str, Any]) -> str | None:
    """Our hook point (`resid_post.3`) as TransformerLens names it; None when it is not known."""
    origins = metadata.get("origins") or [{"hook": ""}]
    hook, _, layer = origins[0]["hook"].rpartition(".")
    return f"blocks.{layer}.hook_{hook}" if layer.isdigit() else None
