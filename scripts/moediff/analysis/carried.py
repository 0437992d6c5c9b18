"""How much of a planted signal each feature of a dictionary gives back."""

from __future__ import annotations

import numpy as np
import torch

from moediff.activations.planting import PlantedRows
from moediff.analysis.evaluation import coded
from moediff.dictionaries.dictionary import Dictionary, in_float64


def carried(
    dictionary: Dictionary, rows: PlantedRows, batch: int, device: torch.device
) -> np.ndarray:
    """Part [F, S] of the signal that each feature gives back in each source; NaN where it has none.

    By how much the part of the reconstruction along the signal's direction that a feature writes rises from
    rows without the signal to rows with it, over the signal's length: a sum over features near 1 says that
    the dictionary took it up. What the class had along that direction by itself counts as well.
    """
    dictionary = in_float64(dictionary, device)
    mask = torch.from_numpy(np.concatenate([rows.where(chunk) for chunk in rows.chunks]))
    sums = torch.zeros(2, dictionary.shape.features, dtype=torch.float64)  # without, with
    start = 0
    for part, entries, values in coded(dictionary, rows, batch, device, "planted signal"):
        row, feature = entries
        here = mask[start : start + len(part)].to(device)[row]
        places = feature + dictionary.shape.features * here
        sums += torch.bincount(places, values, 2 * dictionary.shape.features).cpu().view(2, -1)
        start += len(part)
    counts = torch.tensor([int((~mask).sum()), int(mask.sum())])
    rise = (sums / counts[:, None]).diff(dim=0)[0].numpy()  # [F]
    scales = dictionary.scale.cpu().numpy()
    found = np.full((len(rise), len(rows.widths)), np.nan)
    for number, (decoder, vector) in enumerate(
        zip(dictionary.decoders(), rows.signal.vectors, strict=True)
    ):
        length = np.linalg.norm(vector)
        if length:
            along = decoder.cpu().numpy() @ (vector / length) * scales[number]
            found[:, number] = rise * along / length
    return found
