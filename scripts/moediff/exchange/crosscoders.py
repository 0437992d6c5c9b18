"""Crosscoders in the layout of dictionary_learning, as science-of-finetuning's fork has them.

Written and read as the fork's `save_pretrained` writes them: several sources of one width, one
threshold on scores. dictionary-learning 0.1.0 of PyPI has no crosscoder, and writes pickles only.

    S  sources      d  width of each      F  features
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.dictionaries.dense import Tables
from moediff.dictionaries.dictionary import Dictionary
from moediff.exchange import layouts
from moediff.exchange.layouts import Metadata

CONFIG, WEIGHTS = "config.json", "model.safetensors"

# Our rank -> the crosscoder's code_normalization, with its weights of the joint and the summed norm.
NORMALIZATIONS = {"summed": ("CROSSCODER", 0.0, 1.0), "mixed": ("MIXED", 0.7, 0.3)}
NORMALIZATION_IDS = {"CROSSCODER": 1, "MIXED": 3}
DENORMALIZE_EPSILON = 1e-8  # which the crosscoder adds to a unit that it divides by


def save(
    dictionary: Dictionary, folder: Path | str, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write what the fork's `BatchTopKCrossCoder.from_pretrained(folder, from_hub=True)` reads.

    Features stay in standardised units, with their values, norms and one threshold on scores: mean
    and scale go into the layout's own normaliser, so that it too takes activations as the models
    give them. Folded into the decoders they would change summed norms feature by feature, and one
    threshold could not follow. Raises UserError for one source, unequal widths, thresholds that
    differ between features, or a recipe that normalises rows.
    """
    folder, metadata = Path(folder), dict(metadata or {})
    shape, names = dictionary.shape, layouts.source_names(dictionary, metadata)
    _check(dictionary, names, folder)
    sources, width, features = len(names), shape.widths[0], shape.features
    tables, scale = Tables.of(dictionary), dictionary.scale.double()
    # It multiplies by a unit and later divides by the unit plus an epsilon. The unit is such that
    # the division is right; the encoder takes up what the product then lacks.
    unit = (1 / scale - DENORMALIZE_EPSILON).float()
    encoder = tables.encoder.view(features, sources, width) / (scale * unit.double())[:, None]
    name, joint, summed = NORMALIZATIONS[shape.rank]
    k = metadata.get("recipe", {}).get("k", 0)
    score = dictionary.threshold[0]
    tensors = {
        "encoder.weight": encoder.permute(1, 2, 0),
        "encoder.bias": tables.encoder_bias,
        "decoder.weight": tables.decoder.view(features, sources, width).transpose(0, 1),
        "decoder.bias": tables.decoder_bias.view(sources, width),
        "threshold": layouts.below(score) if score > 0 else torch.zeros(()),
        "activation_mean": dictionary.mean.view(sources, width),
        # Of one feature, if all varied alike: only their total is known.
        "activation_std": (scale[:, None] / width**0.5).expand(-1, width),
        "activation_global_scale": unit,
        "target_rms": torch.ones(()),
    }
    counts = {"code_normalization_id": torch.tensor(NORMALIZATION_IDS[name]),
              "k": torch.tensor(k, dtype=torch.int32)}  # fmt: skip
    layouts.write_floats(folder / WEIGHTS, tensors, metadata, counts)
    # Every key is an argument of the class: provenance stands in the weights' own metadata.
    config = {
        "activation_dim": width,
        "dict_size": features,
        "num_layers": sources,
        "k": k,
        "code_normalization": name,
        "code_normalization_alpha_sae": joint,
        "code_normalization_alpha_cc": summed,
    }
    artifact.write_plain_json(folder / CONFIG, config)


def _check(dictionary: Dictionary, names: Sequence[str], folder: Path) -> None:
    """Refuse what the crosscoder's layout cannot hold."""
    layouts.check_thresholds(dictionary, folder)
    layouts.check_normalisation(dictionary, folder, "crosscoder")
    widths = dictionary.shape.widths
    if len(widths) == 1:
        raise UserError(f"{folder}: an SAE of {names[0]} is no crosscoder; export it to SAELens")
    if dictionary.shape.rank not in NORMALIZATIONS:
        raise UserError(
            f"{folder}: a crosscoder has no norm like rank: {dictionary.shape.rank}, but "
            f"{', '.join(NORMALIZATIONS)}; export it for the Hub"
        )
    if len(set(widths)) > 1:
        shown = ", ".join(f"{name} {width}" for name, width in zip(names, widths, strict=True))
        raise UserError(
            f"{folder}: a crosscoder's sources have one width, these differ ({shown}); "
            f"export it for the Hub"
        )
    scores = dictionary.threshold.clamp_min(0)
    if (scores != scores[0]).any():
        raise UserError(
            f"{folder}: a crosscoder has one threshold, here features differ ({float(scores.min()):g}"
            f" to {float(scores.max()):g}); export it for the Hub, or fit with select: batchtopk"
        )


def load(folder: Path | str) -> tuple[Dictionary, Metadata]:
    """The crosscoder in a folder that the fork's `save_pretrained` wrote, and its metadata.

    A BatchTopKCrossCoder keeps its threshold (none was set if it is negative); a CrossCoder is a
    ReLU. The normaliser becomes mean and scale. Raises UserError for a code_normalization that is
    none of NORMALIZATIONS, and for an encoder that sees some of the sources only.
    """
    path, weights = Path(folder) / CONFIG, Path(folder) / WEIGHTS
    needed = ("activation_dim", "dict_size", "num_layers", "code_normalization")
    config = layouts.read_config(path, needed, "save it again with save_pretrained")
    width, features, sources = (layouts.whole_number(path, config, name) for name in needed[:3])
    tensors = layouts.read_floats(weights)
    limited = "threshold" in tensors
    rank = _rank(path, config) if limited else "summed"
    if config.get("encoder_layers") not in (None, [*range(sources)]):
        raise UserError(
            f"{path}: encoder_layers is {config['encoder_layers']}; only encoders that see every "
            f"source, in order, can be read"
        )
    shapes = {
        "encoder.weight": (sources, width, features), "encoder.bias": (features,),
        "decoder.weight": (sources, features, width), "decoder.bias": (sources, width),
        **({"threshold": (), "k": ()} if limited else {}),
    }  # fmt: skip
    optional = ("activation_mean", "activation_std", "activation_global_scale")
    ignored = {"code_normalization_id", "target_rms"}
    main = {name: values for name, values in tensors.items() if name not in {*optional, *ignored}}
    found = layouts.checked(weights, main, shapes)
    mean, scale, gain = _normaliser(weights, {n: tensors[n] for n in optional if n in tensors},
                                   sources, width)  # fmt: skip
    tables = Tables(
        (found["encoder.weight"] * gain[:, None, None]).permute(2, 0, 1).reshape(features, -1),
        found["encoder.bias"],
        found["decoder.weight"].transpose(0, 1).reshape(features, -1),
        found["decoder.bias"].reshape(-1),
    )
    dictionary = tables.dictionary([width] * sources, rank)
    dictionary.mean.copy_(mean.reshape(-1))
    dictionary.scale.copy_(scale)
    recipe: Metadata = {"select": "relu"}
    if limited:
        recipe = {"select": "batchtopk", "k": int(found["k"]), "rank": rank}
    if not limited or found["threshold"] >= 0:
        dictionary.threshold.fill_(layouts.above(found["threshold"]) if limited else 0.0)
    return dictionary, layouts.imported(
        "crosscoder", [f"source-{s}" for s in range(sources)], recipe, config
    )


def _rank(path: Path, config: Mapping[str, Any]) -> str:
    """Our name of a crosscoder's code normalisation. Raises UserError when there is none."""
    name = str(config["code_normalization"]).upper()
    joint = config.get("code_normalization_alpha_sae", 1.0)
    summed = config.get("code_normalization_alpha_cc", 0.1)
    for rank, (theirs, *weights) in NORMALIZATIONS.items():
        if name == theirs and (name != "MIXED" or weights == [joint, summed]):
            return rank
    shown = f"{name} ({joint:g} and {summed:g})" if name == "MIXED" else name
    raise UserError(
        f"{path}: code_normalization {shown} has no counterpart here; "
        f"take a crosscoder with CROSSCODER, or MIXED with 0.7 and 0.3"
    )


def _normaliser(
    path: Path, tensors: Mapping[str, Tensor], sources: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [S, d], scale [S], and what the encoder lacks [S], of a crosscoder's normaliser.

    One that was never set is all NaN, or absent.
    """
    if all(tensors[name].isnan().all() for name in tensors if name != "activation_global_scale"):
        return torch.zeros(sources, width), torch.ones(sources), torch.ones(sources)
    found = layouts.checked(
        path, tensors,
        {"activation_mean": (sources, width), "activation_std": (sources, width),
         "activation_global_scale": (sources,)},
    )  # fmt: skip
    unit = found["activation_global_scale"]
    scale = 1 / (unit + DENORMALIZE_EPSILON)
    return found["activation_mean"], scale, unit * scale
