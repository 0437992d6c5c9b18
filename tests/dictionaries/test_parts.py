"""The part of a dictionary that a rank holds."""

from __future__ import annotations

import pytest
import torch

from moediff.core.errors import UserError
from moediff.core.ranks import Ranks
from moediff.dictionaries import blocks
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.parts import Part

SHAPES = [
    Shape((12, 7), 5, 100, (6, 6), "norm", "summed"),
    Shape((9, 9), 40, 33, (0, 0), "direction", "mixed"),
    Shape((3,), 0, 167, (0,), "norm", "summed"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_begin_as_the_whole_does(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "DRAWN_AT_ONCE", 32)
    whole = Dictionary(shape, 3, 0.4)
    whole.threshold.copy_(torch.arange(shape.features))
    numbers = []
    for rank in range(4):
        part = Part(shape, Ranks(rank, 4))
        wanted = part.own(whole.state_dict())
        begun = Dictionary(shape, 3, 0.4, part=part).state_dict()
        assert begun.keys() == wanted.keys()
        for name, value in wanted.items():
            if name != "threshold":
                assert torch.equal(begun[name], value), name
        assert wanted["threshold"].tolist() == part.numbers.tolist()
        numbers += part.numbers.tolist()
    assert sorted(numbers) == list(range(shape.features))


def test_a_block_with_fewer_features_than_ranks_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^4 ranks cannot share the 3 features of block exclusive-0"
    ):
        Part(Shape((4, 4), 8, 8, (3, 3), "norm", "summed"), Ranks(0, 4))
