"""Thresholds between 'reach a score' and 'exceed a number', to the last float32, in each layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from exchanged import changed, code, made, opened, stated
from moediff.exchange import crosscoders, saelens

INFINITY = torch.tensor(torch.inf)
# Layout -> the module that writes it, and values [row, F] as the other library computes them.
LAYOUTS = {
    "saelens": (saelens, lambda folder, sources: opened(folder).encode(sources[0])),
    "crosscoder": (crosscoders, lambda folder, sources: stated(folder, sources).values),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_score_at_its_threshold_fires_and_the_next_smaller_does_not(
    tmp_path: Path, layout: str
) -> None:
    """One feature a column, values whose products with the norms are rounded, thresholds equal to them."""
    width, copies = 32, 1 if layout == "saelens" else 2
    dictionary = made([width] * copies, features=width, tied=0)
    block = dictionary.blocks["free"]
    block.encoder.zero_()
    block.encoder[:, :width] = torch.eye(width)
    block.encoder_bias.zero_()
    norms = 0.3 + torch.rand(width, generator=torch.Generator().manual_seed(0))
    if layout == "crosscoder":  # one threshold: norms that are equal
        norms[:] = 0.7
    block.weight.zero_()
    block.weight[:, :width] = torch.diag(norms)
    dictionary.mean.zero_()
    unit = 4.0 if layout == "saelens" else 0.25  # powers of two: nothing is rounded on the way
    dictionary.scale.fill_(unit)
    values = 1 + torch.rand(width, generator=torch.Generator().manual_seed(1))
    if layout == "crosscoder":
        values[:] = 1.37
    dictionary.threshold.copy_(values * dictionary.norms().sum(1))
    steps = [values]
    for _ in range(3):
        steps = [steps[0].nextafter(-INFINITY), *steps, steps[-1].nextafter(INFINITY)]
    raw = torch.cat([torch.diag(unit * step) for step in steps])
    sources = [raw, torch.zeros_like(raw)][:copies]
    ours = code(dictionary, sources).values != 0
    assert torch.equal(ours[3 * width : 4 * width], torch.eye(width, dtype=torch.bool))
    assert not ours[: width * 1].any()
    library, values_of = LAYOUTS[layout]
    library.save(dictionary, tmp_path)
    assert torch.equal(values_of(tmp_path, sources) != 0, ours)
    back, _ = library.load(tmp_path)
    again = code(back, sources).values != 0
    assert torch.equal(again[3 * width :], ours[3 * width :])
    assert not again[:width].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_their_threshold_must_be_exceeded(tmp_path: Path, layout: str) -> None:
    """A row at the threshold does not fire, the next larger one does: there and here."""
    copies = 1 if layout == "saelens" else 2
    dictionary = made([8] * copies, features=8, tied=0)
    dictionary.mean.zero_()
    dictionary.scale.fill_(0.25)
    block = dictionary.blocks["free"]
    for rows in (block.encoder, block.weight):
        rows.zero_()
        rows[:, :8] = torch.eye(8)
    block.encoder_bias.zero_()
    steps = [torch.tensor(1.37).nextafter(-INFINITY), torch.tensor(1.37)]
    steps.append(steps[1].nextafter(INFINITY))
    sources = [0.25 * torch.cat([step * torch.eye(8) for step in steps])] * copies
    library, values_of = LAYOUTS[layout]
    library.save(dictionary, tmp_path)
    bound = torch.tensor(1.37)
    changed(tmp_path, threshold=bound.repeat(8) if layout == "saelens" else bound)
    back, _ = library.load(tmp_path)
    wanted = torch.cat([torch.zeros(16, 8), torch.eye(8)]).bool()
    assert torch.equal(values_of(tmp_path, sources) != 0, wanted)
    assert torch.equal(code(back, sources).values != 0, wanted)
