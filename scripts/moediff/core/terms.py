"""Terms that several stages write: of domains, tests and claims.

They stand apart from the arithmetic, since the Snakefile reads them each time that it is parsed and needs no
NumPy for it.
"""

from __future__ import annotations

ALL = "all"  # domains together, and in counts of a panel all models
EITHER = "either kind"  # both sides of a panel's split together

# Directions of a claim and its verdicts.
ABOVE, BELOW, NEAR, EITHER_WAY = DIRECTIONS = ("above", "below", "near", "either")
# Kinds of null.
PERMUTED = "labels of models permuted over pairs"
LABELLINGS = "every other labelling of the panel"
KNOWN = "a known value"
NULLS = (PERMUTED, LABELLINGS, KNOWN)
