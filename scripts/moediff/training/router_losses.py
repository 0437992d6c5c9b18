"""Losses of routers: what keeps the experts of an MoE in use, and its logits small.

A router loss is a function of one layer's router logits [..., token, expert], of how many experts a token
uses, and of what makes means over tokens of the shares in which experts are used; it gives one float32
number for each leading index [...]. Where several ranks hold parts of the tokens, shares are meant over all
of them, and the ranks' losses, weighted by tokens, are that of all tokens together. Add one here and to
`ROUTER_LOSSES`, and its name to `training.router_losses` in config/schema.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Mean = Callable[[Tensor], Tensor]


def over_tokens(values: Tensor) -> Tensor:
    """The mean [..., expert] over tokens of [..., token, expert]."""
    return values.mean(-2)


def balance(logits: Tensor, top_k: int, mean: Mean = over_tokens) -> Tensor:
    """Balance loss of a layer: E * sum_e f_e P_e (Switch, 2101.03961, eq. 4).

    f_e is the share of tokens that have expert e among their top k (so sum_e f_e = k) and P_e the
    mean router probability. Its floor, at perfect balance, is k; its ceiling, with all tokens on
    the same k experts, is E.
    """
    probability = logits.float().softmax(-1)  # [..., token, expert]
    chosen = probability.topk(top_k, dim=-1).indices  # [..., token, k]
    used = mean(torch.zeros_like(probability).scatter_(-1, chosen, 1.0))  # [..., expert]
    return logits.shape[-1] * (used * probability.mean(-2)).sum(-1)


def z(logits: Tensor, top_k: int, mean: Mean = over_tokens) -> Tensor:
    """Router z-loss of a layer: mean over tokens of (log sum_e exp x_e)^2 (ST-MoE, 2202.08906, eq. 5).

    It draws logits towards 0, where a router's rounding errors are small; k and shares play no part in it.
    """
    return logits.float().logsumexp(-1).square().mean(-1)


ROUTER_LOSSES: dict[str, Callable[[Tensor, int, Mean], Tensor]] = {"balance": balance, "z": z}


def summed_over_layers(
    logits: Sequence[Tensor], top_k: int, names: Iterable[str], mean: Mean = over_tokens
) -> dict[str, Tensor]:
    """The named losses, each a sum over layers; none for a dense model, which has no logits.

    `logits` are one [..., token, expert] a layer. Each layer is judged by itself: pooled over layers,
    opposite imbalances would cancel.
    """
    if not logits:
        return {}
    losses = {}
    for name in names:
        total = logits[0].new_zeros(logits[0].shape[:-2], dtype=torch.float32)
        for layer in logits:
            total = total + ROUTER_LOSSES[name](layer, top_k, mean)
        losses[name] = total
    return losses
