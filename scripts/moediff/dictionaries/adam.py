"""torch's Adam without what its methods are wrapped in for torch.compile, which fits do not use.

The first call of a wrapped method imports torch._dynamo: 1.5 seconds of every fit.
"""

from __future__ import annotations

import inspect

import torch


class Adam(torch.optim.Adam):
    """The same steps, to the bit (torch 2.13.0, which is pinned)."""

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
