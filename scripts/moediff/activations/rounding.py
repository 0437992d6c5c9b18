"""What rounding to float16 takes from the rows of a hook point: values too small for their common scale.

Values of one hook point are stored times one power of two. Where one of them is far above the rest, that
power leaves the rest below what float16 holds: it keeps fewer digits of them, and at last none, without a
word. That is refused as values too large for it are.

Below 2^7 times float16's smallest, rounding may take more than 2^-8 of a value; bfloat16, in which most
models compute, takes that much at most. Of normal values at their own scale less than a hundred-thousandth
lie there, and a tenth once outliers have raised the root mean square to 16,000 times theirs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DIGITS = 7  # binary ones, of a value that is kept no worse than by bfloat16
MOST_SMALL = 0.1  # share of the values that are not zero


class Rounding:
    """Counts, over the rows of one hook point, what float16 cannot keep; and where the largest value is."""

    def __init__(self) -> None:
        self.rows = self.values = self.small = self.lost = 0
        self.first_lost: int | None = None
        self.top, self.largest, self.largest_row = 0, 0.0, 0

    def add(self, values: Tensor, stored: Tensor) -> None:
        """Count rows [row, d_model]: as they are, and as they are stored; float32 keeps all."""
        if stored.dtype != torch.float16 or not len(stored):
            return
        exact = values.numpy()
        # Without its sign, the bits of a float16 grow with its size, and count its smallest from 0.
        sizes = stored.numpy().view(np.uint16) << 1
        small = sizes < 2 << DIGITS
        nonzero = int((exact[small] != 0).sum())
        self.small += nonzero
        self.values += small.size - int(small.sum()) + nonzero
        whole = small.all(1)  # alone can be lost
        lost = np.flatnonzero(whole)[exact[whole].any(1) & ~sizes[whole].any(1)]
        if len(lost) and self.first_lost is None:
            self.first_lost = self.rows + int(lost[0])
        self.lost += len(lost)
        if (top := int(sizes.max())) > self.top:
            row, column = np.unravel_index(sizes.argmax(), sizes.shape)
            self.top, self.largest = top, float(exact[row, column])
            self.largest_row = self.rows + int(row)
        self.rows += len(exact)

    def fault(self) -> str | None:
        """What is lost, in words; None where it is little."""
        if self.lost:
            return f"{self.lost} of {self.rows} rows (first row {self.first_lost}) become zeros in float16"
        if self.small > MOST_SMALL * self.values:
            share = self.small / self.values
            return f"float16 keeps less than {DIGITS} binary digits of {share:.0%} of the values"
        return None
