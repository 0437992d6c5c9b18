"""moediff: what a Mixture of Experts represents that a dense model of the same active size does not.

The library under the workflow, in packages by stage; each imports only from those before it
(docs/decisions.md has the order and why). Two doors for a notebook: `moediff.study` opens a finished
study's rows, `moediff.load_pretrained` a dictionary from a folder or the Hub.
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["load_pretrained"]

# Tables of tens of megabytes come and go with every step of fitting; in huge pages torch gets them
# from Linux faster (docs/engine.md). Read at torch's first allocation; it changes no result.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is asked for: the Snakefile's parse pays for none of it."""
    if name in __all__:
        return getattr(import_module("moediff.hub"), name)
    raise AttributeError(f"module 'moediff' has no attribute '{name}'")
