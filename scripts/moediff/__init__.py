"""moediff: what a Mixture of Experts represents that a dense model of the same active size does not.

The library under the workflow. It knows nothing of Snakemake; every module imports only from the
floors beneath it (docs/decisions.md has the map).
"""

import os

__version__ = "0.1.0"

# Tables of tens of megabytes come and go with every step of fitting; in huge pages torch gets them
# from Linux faster (docs/engine.md). Read at torch's first allocation; it changes no result.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
