"""The number of every stage, and what raising it means."""

from __future__ import annotations

# Raised by hand when the code of a stage changes what it writes: the only way in which code
# (and never a docstring) makes Snakemake run a stage again. tests/project/test_versions.py guards it.
# "models" stayed 2 when histories became long tables: weights are the same, and training.history reads both.
STAGE_VERSIONS = {
    "documents": 2,
    "tokenizer": 2,
    "token_shards": 4,
    "ngrams": 2,
    "models": 2,
    "activations": 5,
    "baselines": 4,
    "dictionaries": 9,
    "metrics": 9,
    "anchor": 2,
    "similarity": 3,
    "moved": 1,
    "divergence": 2,
    "deletion": 1,
    "recurrence": 1,
    "panel": 5,
    "panel_loss": 5,
    "kinds": 2,
    "detectable": 1,
    "trend": 1,
    "claims": 5,
    "splicing": 3,
    "experts": 2,
    "routing": 1,
    "lens": 1,
    "fewer_experts": 1,
    "prune": 1,
    "examples": 1,
    "exports": 1,
    "planted": 2,
    "plots": 7,
    "budget": 4,
}
# What the files of a stage call it in their provenance where they do not bear its name: a stage that writes
# several kinds of tables, and a dictionary that another library fitted.
STAGE_PARTS = {
    "affinity": "experts",
    "masked": "experts",
    "written": "experts",
    "exchange": "exports",
}
