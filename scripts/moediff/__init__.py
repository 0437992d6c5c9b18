"""moediff: what a Mixture of Experts represents that a dense model of the same active size does not.

The library under the workflow. It knows nothing of Snakemake; every module imports only from the
floors beneath it (docs/decisions.md has the map).
"""

__version__ = "0.1.0"
