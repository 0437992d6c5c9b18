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
    normaliser, features = dictionary.normaliser, dictionary.shape.features
    # Without and with the signal, in each source, whose rows may have sizes that are not shown.
    sums = torch.zeros(len(rows.widths), 2, features, dtype=torch.float64)
    start = 0
    batches = coded(dictionary, rows, batch, device, "planted signal")
    for (part, entries, values), given in zip(batches, rows.in_order(batch), strict=True):
        row, feature = entries
        here = mask[start : start + len(part)].to(device)[row]
        places = feature + features * here
        for number, own in enumerate(given):
            sized = values * normaliser.sizes(own.to(values))[row]
            sums[number] += torch.bincount(places, sized, 2 * features).cpu().view(2, -1)
        start += len(part)
    counts = torch.tensor([int((~mask).sum()), int(mask.sum())])
    rise = (sums / counts[:, None]).diff(dim=1)[:, 0].numpy()  # [S, F]
    scales = dictionary.scale.cpu().numpy()
    found = np.full((features, len(rows.widths)), np.nan)
    for number, (decoder, vector) in enumerate(
        zip(dictionary.decoders(), rows.signal.vectors, strict=True)
    ):
        length = np.linalg.norm(vector)
        if length:
            written = normaliser.written(decoder, number).cpu().numpy()  # [F, d_s]
            along = written @ (vector / length) * scales[number]
            found[:, number] = rise[number] * along / length
    return found
