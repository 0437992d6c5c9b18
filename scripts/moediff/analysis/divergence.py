"""How far the next-token predictions of two language models lie apart on the same text.

    KL(P || Q) = sum over tokens t of P(t) (log P(t) - log Q(t))

in nats, of the distributions P and Q that two models give to the token that comes next. It is 0 where both
predict the same; each direction is weighted by what its first model expects. It needs no dictionary.

The vocabulary is what both have: where one embedding is longer, as of a checkpoint that was tuned with an
added token, the first ids of both are compared and each distribution is made to sum to 1 over them. What a
model gives to a token that the other cannot predict is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moediff.analysis.reruns import Pass, Text, passes, warn_of_few
from moediff.core.bootstrap import LEAST_GROUPS, Units, group_interval
from moediff.core.errors import UserError
from moediff.core.terms import ALL
from moediff.corpus.token_shards import TokenShard
from moediff.hooks.proofs import prove_packing

AT_ONCE = 2**23  # probabilities of a model in memory at once, of 8 bytes
COLUMNS = {
    "domain": pl.String, "tokens": pl.Int64, "text_groups": pl.Int64, "kl_first_second": pl.Float64,
    "kl_low": pl.Float64, "kl_high": pl.Float64, "kl_second_first": pl.Float64,
    "top1_agreement": pl.Float64,
}  # fmt: skip
_SUMMED = ("kl_first_second", "kl_second_first", "top1_agreement")  # over tokens, then divided


def same_tokens(first: TokenShard, second: TokenShard) -> bool:
    """Whether two models read the same tokens of the same documents: their ids mean the same text."""
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("tokens", "document")
    )


@torch.no_grad()
def divergence(
    models: Sequence[PreTrainedModel],
    texts: Iterable[Text],
    across_documents: bool,
    sequences: int,
    batch: int,
) -> pl.DataFrame:
    """Divergence of the predictions of two models, over all tokens and by domain, the largest first.

    COLUMNS: KL in both directions, a mean over the tokens that `Pass.losses` counts, in nats; of the
    first its 95 % interval, `text_groups` groups of documents resampled, null where these are too few;
    and the share of tokens for which both have the same most probable token. `texts` are token shards
    that both read; the first `sequences` are used, `batch` at a time, where these are of few groups those
    of most. Raises UserError where nothing is predicted, where attention crosses documents, and where a
    divergence is no finite number.
    """
    both = ([text] * len(models) for text in texts)
    parts: list[pl.DataFrame] = []
    domains: tuple[str, ...] = ()
    for runs in passes(
        models, both, across_documents, sequences, batch, "divergence", LEAST_GROUPS
    ):
        if not parts:
            domains = runs[0].tokens.domains
            for run in runs:
                prove_packing(run.model, run.tokens.tokens[run.part], run.starts)
        parts.append(_by_group(runs))
    found = pl.concat(parts) if parts else None
    if found is None or found.is_empty():
        raise UserError("divergence: no token is predicted; use more sequences")
    if not np.isfinite(found.select(_SUMMED).to_numpy()).all():
        raise UserError(
            "divergence: a model gives no finite prediction of some token (a probability of 0 for one that "
            "the other expects, or no number)"
        )
    warn_of_few("divergence", Units(found["group"], found["domain"]), domains)
    each = [_row(domains[int(number)], rows) for (number,), rows in found.group_by("domain")]
    each.sort(key=lambda row: (-row["kl_first_second"], row["domain"]))
    return pl.DataFrame([_row(ALL, found), *each], schema=COLUMNS)


def _by_group(runs: Sequence[Pass]) -> pl.DataFrame:
    """Sums over the tokens of each group of documents and domain of a pass of two models."""
    first, second = runs
    values = np.concatenate(list(_compared(first, second)), axis=1)  # [3, target]
    tokens = pl.DataFrame(
        {"group": first.units.group, "domain": first.domain.astype(np.int64)}
        | dict(zip(_SUMMED, values, strict=True))
    )
    return tokens.group_by("group", "domain", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("tokens"), pl.col(_SUMMED).sum()
    )


def _compared(first: Pass, second: Pass) -> Iterator[np.ndarray]:
    """Of the targets of a pass, some at a time: both divergences and agreement, float64 [3, some]."""
    logits = [run.logits().flatten(0, 1) for run in (first, second)]  # [sequence x position, V]
    shared = min(part.shape[1] for part in logits)
    # What is predicted at a target is said at the position before it.
    sequence, before = np.nonzero(first.target)
    length = first.target.shape[1] + 1
    places = torch.from_numpy(sequence * length + before)
    for some in places.split(max(1, AT_ONCE // shared)):
        p, q = (
            part[some.to(part.device), :shared].to(logits[0].device).double().log_softmax(1)
            for part in logits
        )  # [some, V]
        agree = p.argmax(1) == q.argmax(1)
        yield torch.stack([_kl(p, q), _kl(q, p), agree.double()]).cpu().numpy()


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(P || Q) [n] of log-probabilities [n, V]; what P rules out adds nothing, whatever Q says of it."""
    chances = p.exp()
    return (
        torch.where(chances == 0, 0.0, chances * (p - q)).sum(1).clamp_min(0)
    )  # below by rounding


def _row(name: str, found: pl.DataFrame) -> dict[str, Any]:
    """The row of a domain from the sums of its groups."""
    tokens = int(found["tokens"].sum())
    means = {column: float(found[column].sum()) / tokens for column in _SUMMED}
    units = Units(found["group"], found["domain"])
    interval = group_interval(found["kl_first_second"], found["tokens"], units)
    low, high = interval or (None, None)
    row = {"domain": name, "tokens": tokens, "text_groups": units.size()}
    return row | {"kl_low": low, "kl_high": high} | means
