"""Passes of a running model that begin behind its first blocks, whose output is known from a pass before.

    begun = Beginning(model, point)
    with begun.kept():
        ...                                # a pass of some inputs, which does the blocks before the point
    with begun.skipped():
        ...                                # passes of the same inputs: these blocks are not computed again

What is changed at a point, or behind it, changes nothing before it: of a model with many changes in turn
the first blocks need one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.hooks.points import Point
from moediff.models.families import blocks


class Beginning:
    """The blocks of a model that are done at a hook point, and what the last of them gave in a pass."""

    def __init__(self, model: PreTrainedModel, point: Point) -> None:
        self.model = model
        done = point.layer + (point.hook == "resid_post")
        self.blocks = list(blocks(model)[:done])  # empty: every pass is whole
        self.out: Any = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside it what these blocks give is kept of the last pass; to be opened before other hooks."""
        with ExitStack() as hooks:
            for block in self.blocks[-1:]:
                hooks.callback(block.register_forward_hook(self._keep).remove)
            yield

    def _keep(self, _: nn.Module, __: tuple, out: Any) -> None:
        self.out = _copied(out)

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Inside it passes of the inputs of the kept one go on from what was kept."""
        with ExitStack() as stack:
            for block in self.blocks:
                stack.enter_context(_giving(block, self))
            yield

    @torch.no_grad()
    def prove(self, inputs: Mapping[str, Any]) -> None:
        """Skip nothing from now on unless a pass that skips has the logits of a whole one, to the bit.

        So a family whose later blocks take more from the first ones than the stream is run whole.
        """
        with self.kept():
            whole = self.model(**inputs).logits
        try:
            with self.skipped():
                same = torch.equal(self.model(**inputs).logits, whole)
        except (
            Exception
        ):  # whatever a family raises that misses what an earlier block leaves for it
            same = False
        if not same:
            self.blocks = []


def _copied(out: Any) -> Any:
    """What a block gives, its stream copied: some families add to it in place."""
    return out.clone() if isinstance(out, Tensor) else (out[0].clone(), *out[1:])


@contextmanager
def _giving(block: nn.Module, beginning: Beginning) -> Iterator[None]:
    """Inside it a block gives what was kept: of several in a row only the last one is listened to."""
    plain, own = block.forward, "forward" in vars(block)
    block.forward = lambda *_, **__: _copied(beginning.out)
    try:
        yield
    finally:
        if own:
            block.forward = plain
        else:
            del block.forward
