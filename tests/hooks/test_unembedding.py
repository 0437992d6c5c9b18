"""From the stream to logits."""

from __future__ import annotations

import pytest
import torch

from families import FAMILIES, tiny
from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.models import unembedding
from moediff.models.families import blocks, language_model

IDS = torch.randint(1, 60, (2, 12), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_leaves_the_last_block_unembeds_to_the_models_logits(family: str) -> None:
    model = tiny(family)
    last = Point("resid_post", len(blocks(model)) - 1)
    with Capture(model, [last]) as capture:
        rows = capture(input_ids=IDS).points[last]
    unembed = unembedding.unembedding(model)
    unembedding.prove(model, unembed, rows, input_ids=IDS)
    with torch.no_grad():
        torch.testing.assert_close(unembed(rows), model(input_ids=IDS).logits, rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match="are not the unembedding of the normed stream"):
        unembedding.prove(model, unembed, rows + torch.randn(rows.shape), input_ids=IDS)


def test_a_model_without_a_final_norm_is_refused() -> None:
    model = tiny("llama")
    del language_model(model).norm
    with pytest.raises(UserError, match="no final norm was found; its parts: embed_tokens, layers"):
        unembedding.unembedding(model)
