"""One text, token by token and layer by layer: which experts, their gates, and what each would say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moediff.analysis.reruns import Pass
from moediff.corpus.alignment import PADDING
from moediff.experts.lens import proved, read_layers, rows_of

SAID = 3  # tokens, the likeliest, that are shown of what is said


@torch.no_grad()
def read_text(run: Pass, texts: Sequence[str]) -> dict[str, Any]:
    """What a page of a text shows; `run` is a pass of an MoE, `texts` [id] are those of token ids.

    `tokens`: of each token that is read `text`, `domain`, whether it is the `first` that attention sees, and
    `next`, what the model says. `layers`: of each MoE layer `layer`, `experts` and `gates` [token, k], the
    largest gate first, `alone` and `beside` [token, k], what each expert says by itself and with the stream
    and all that is shared, and `says` [token], what leaves the layer. What is said is [[id, share], ...] of
    SAID tokens. `texts`: those of the ids that are named. Raises UserError as `slots` and `unembedding` do.
    """
    layered = read_layers(run)
    unembed = proved(run, layered.last)
    ids = run.tokens.tokens[run.part]
    kept = np.flatnonzero(run.tokens.document[run.part].ravel() != PADDING)
    rows = torch.from_numpy(kept)
    named: set[int] = set(ids.ravel()[kept].tolist())

    def said(values: Tensor) -> list[list[list[float]]]:
        """[token][SAID] of ids and shares, from rows of the stream [token, d]."""
        share = unembed(values).softmax(-1)
        top = share.topk(min(SAID, share.shape[-1]), -1)
        named.update(top.indices.flatten().tolist())
        return [
            [[token, round(part, 3)] for token, part in zip(*pair, strict=True)]
            for pair in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    layers = []
    for layer, here in layered.slots.items():
        own = rows.to(here.parts.device)
        middle, after = (rows_of(part[layer], rows) for part in (layered.middle, layered.after))
        stream, parts = middle + here.shared[own], here.parts[own].unbind(1)
        layers.append(
            {
                "layer": layer,
                "experts": here.experts[own].tolist(),
                "gates": _rounded(here.gates[own]),
                "alone": _by_token(said, parts),
                "beside": _by_token(said, [stream + part for part in parts]),
                "says": said(after),
            }
        )
    heard = said(rows_of(layered.last, rows))
    starts, domain = run.starts.ravel()[kept], run.tokens.domain[run.part].ravel()[kept]
    tokens = [
        {"id": int(token), "domain": run.tokens.domains[of], "first": bool(first), "next": next_}
        for token, of, first, next_ in zip(ids.ravel()[kept], domain, starts, heard, strict=True)
    ]
    return {
        "experts": here.layer.logits.shape[1],
        "tokens": tokens,
        "layers": layers,
        "texts": {
            str(number): str(texts[number]) for number in sorted(named) if number < len(texts)
        },
    }


def _by_token(said: Callable[[Tensor], list], parts: Sequence[Tensor]) -> list[list]:
    """What each of k parts [token, d] says, token by token: [token][k]."""
    return [list(each) for each in zip(*(said(part) for part in parts), strict=True)]


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in values.tolist()]
