"""A dictionary to write in files of other libraries, and what it and they do with rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from conftest import RECIPE
from moediff.core import artifact
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.normalising import Normaliser
from moediff.exchange import crosscoders, saelens

ROWS = 400
FACTS = artifact.made_by(
    "dictionaries",
    sources=["moe.0"],
    origins=[{"hook": "resid_post.3"}],
    recipe={"select": "batchtopk", "k": 6},
)
PAIR = FACTS | {"sources": ["moe.0", "dense.0"], "origins": [{"hook": "resid_post.3"}] * 2}


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def made(widths: list[int], normaliser: Normaliser | None = None, **recipe) -> Dictionary:
    """A dictionary of random weights, norms, mean and scales; features 3 and 5 have no decoder."""
    settings = RECIPE | {"features": 48, "exclusive": 0, "threshold": 0.4} | recipe
    shape = Shape.of(settings, widths)
    dictionary = Dictionary(shape, seed=1, normaliser=normaliser).requires_grad_(False)
    for seed, block in enumerate(dictionary.blocks.values()):
        block.encoder += 0.2 * normal(*block.encoder.shape, seed=seed)
        block.encoder_bias += 0.2 * normal(len(block.encoder_bias), seed=seed)
        for name in {"weight", "norm", "shared"} & dict(block.named_parameters()).keys():
            rows = getattr(block, name)
            rows *= (0.5 * normal(len(rows), seed=seed)).exp().view(-1, *[1] * (rows.dim() - 1))
    if not settings["tied"]:
        dictionary.blocks["free"].weight[[3, 5]] = 0.0
    dictionary.decoder_bias += normal(sum(widths), seed=2)
    dictionary.mean += 3 * normal(sum(widths), seed=3)
    dictionary.scale.copy_(torch.tensor([2.5, 0.3, 7.0])[: len(widths)])
    dictionary.threshold.fill_(settings["threshold"])
    return dictionary


def jump_thresholds(dictionary: Dictionary) -> Dictionary:
    """A threshold for each feature: some negative, some zero, most positive."""
    features = dictionary.shape.features
    dictionary.threshold.copy_(normal(features, seed=8))
    dictionary.threshold[::4] = 0.0
    return dictionary


@dataclass
class Code:
    """What a dictionary does with rows: all in the units of the models."""

    values: torch.Tensor  # [row, F]
    guess: torch.Tensor  # [row, D]
    clear: torch.Tensor  # [row], no score is within rounding of its threshold


def activations(dictionary: Dictionary, seed: int = 7) -> list[torch.Tensor]:
    """Rows of each source, as the models give them."""
    return dictionary.restore(0.7 * normal(ROWS, sum(dictionary.shape.widths), seed=seed))


def code(dictionary: Dictionary, sources: list[torch.Tensor], select=None) -> Code:
    rows = dictionary.standardise(sources)
    (row, feature), values = dictionary.encode(rows, select)
    dense = torch.zeros(len(rows), dictionary.shape.features)
    dense[row, feature] = values
    guess = torch.cat(dictionary.restore(dictionary.reconstruct(rows, select)), dim=1)
    scores = dictionary.score(rows)[0].all
    edges = dictionary.threshold.nan_to_num(posinf=1e9).clamp_min(0)
    live = dictionary.norms().sum(1) > 0
    return Code(dense, guess, ((scores - edges).abs()[:, live] > 1e-4).all(1))


def assert_same(ours: Code, values: torch.Tensor, guess: torch.Tensor) -> None:
    """Equal firing sets, values and reconstructions on rows that rounding cannot move."""
    clear = ours.clear
    assert clear.double().mean() > 0.9
    assert 0.02 < (ours.values != 0).double().mean() < 0.6
    assert torch.equal((values != 0)[clear], (ours.values != 0)[clear])
    for found, wanted in ((values, ours.values), (guess, ours.guess)):
        tolerance = 1e-5 * float(wanted.abs().max())
        torch.testing.assert_close(found[clear], wanted[clear], rtol=0, atol=tolerance)


def assert_same_dictionary(one: Dictionary, two: Dictionary) -> None:
    sources = activations(one)
    other = code(two, sources)
    assert_same(code(one, sources), other.values, other.guess)


def opened(folder: Path):
    """The SAE in a folder, as SAELens opens it."""
    from sae_lens import SAE

    return SAE.load_from_disk(folder)


def stated(folder: Path, sources: list[torch.Tensor]) -> Code:
    """The crosscoder's forward pass as its own code states it, from its files."""
    found = load_file(folder / crosscoders.WEIGHTS)
    config = json.loads((folder / crosscoders.CONFIG).read_text())
    rows = torch.stack(sources, dim=1)  # [row, S, d]
    unit = found["activation_global_scale"][None, :, None]
    inner = (rows - found["activation_mean"]) * unit
    values = torch.einsum("rsd,sdf->rf", inner, found["encoder.weight"]) + found["encoder.bias"]
    decoder = found["decoder.weight"]
    weight = decoder.norm(dim=2).sum(0)
    if config["code_normalization"] == "MIXED":
        joint, summed = (config[f"code_normalization_alpha_{name}"] for name in ("sae", "cc"))
        weight = joint * decoder.norm(dim=(0, 2)) + summed * weight
    values = values.relu() * (values.relu() * weight > found["threshold"])
    guess = torch.einsum("rf,sfd->rsd", values, decoder) + found["decoder.bias"]
    guess = guess / (unit + 1e-8) + found["activation_mean"]
    return Code(values, guess.flatten(1), torch.ones(len(rows), dtype=torch.bool))


def changed(folder: Path, config: dict | None = None, **tensors: torch.Tensor | None) -> None:
    """Change keys and tensors of a crosscoder or an SAE on disk; None takes one away."""
    layout = saelens if (folder / saelens.CONFIG).exists() else crosscoders
    path, weights = folder / layout.CONFIG, folder / layout.WEIGHTS
    found = load_file(weights) | {name.replace("__", "."): new for name, new in tensors.items()}
    save_file({name: new for name, new in found.items() if new is not None}, weights)
    keys = json.loads(path.read_text()) | (config or {})
    path.write_text(json.dumps({k: v for k, v in keys.items() if v is not None}))
