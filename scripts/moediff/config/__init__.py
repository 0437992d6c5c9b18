"""The config: sections with their checks, versions of stages, names. Imports nothing heavy.

Every job of a cluster run parses the Snakefile again, and rules ask for these names.
"""

from moediff.config.activations import dropped, model_shards, points, shared_shards
from moediff.config.base import ROW_SPLITS, SPLITS
from moediff.config.checkpoints import checkpoint_files
from moediff.config.comparisons import doses, fits, is_panel, kinds, shared_fits
from moediff.config.corpus import (
    sequences,
    shard_count,
    shards_again,
    text_bytes,
    text_files,
    tokenizer_files,
)
from moediff.config.detectable import planted_fits, planted_tries
from moediff.config.kept import kept_steps
from moediff.config.kinds import KINDS, has_experts, kind, language_models, models_of
from moediff.config.layout import Fit, Source
from moediff.config.models import own_tokenizers, seeds
from moediff.config.rows import row_domains, row_files, row_paths
from moediff.config.training import (
    init_of,
    peak_rates,
    training_of,
    training_params,
    trial_params,
    trial_seed,
)
from moediff.config.versions import STAGE_VERSIONS

__all__ = [
    "KINDS",
    "ROW_SPLITS",
    "SPLITS",
    "STAGE_VERSIONS",
    "Fit",
    "Source",
    "checkpoint_files",
    "doses",
    "dropped",
    "fits",
    "has_experts",
    "init_of",
    "is_panel",
    "kept_steps",
    "kind",
    "kinds",
    "language_models",
    "model_shards",
    "models_of",
    "own_tokenizers",
    "peak_rates",
    "planted_fits",
    "planted_tries",
    "points",
    "row_domains",
    "row_files",
    "row_paths",
    "seeds",
    "sequences",
    "shard_count",
    "shards_again",
    "shared_fits",
    "shared_shards",
    "text_bytes",
    "text_files",
    "tokenizer_files",
    "training_of",
    "training_params",
    "trial_params",
    "trial_seed",
]
