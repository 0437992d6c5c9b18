"""Sizes that no machine can run, known before any list of jobs is made."""

from __future__ import annotations

from moediff.config.base import SPLITS, Config
from moediff.config.comparisons import fits
from moediff.config.corpus import shard_count, text_bytes
from moediff.config.kinds import TRAINED, models_of
from moediff.config.resources import MEGABYTE, dictionary_mb, model_mb
from moediff.core.errors import ConfigError

MOST_SHARDS = 100_000  # a shard's name has five digits
MOST_TEXT = 2**42  # bytes of one domain
MOST_PARAMETERS = 10**12  # of one model or dictionary: 4 TB in float32


def check_sizes(config: Config) -> None:
    """Refuse what would take more shards, text or parameters than these. Raises ConfigError."""
    if "corpus" in config:
        _check_corpus(config)
    for model in models_of(config, TRAINED):
        _check_parameters(f"models.{model}.train: the model", model_mb(config, model))
    for fit in fits(config):
        what = f"recipes.{fit.recipe}.features: the dictionary over {fit.member.name}"
        _check_parameters(what, dictionary_mb(config, fit.member, fit.recipe))


def _check_corpus(config: Config) -> None:
    corpus = config["corpus"]
    for split in SPLITS:
        shards = shard_count(config, split)
        if shards > MOST_SHARDS:
            raise ConfigError(
                f"corpus.tokens.{split}: {corpus['tokens'][split]:,} tokens make {shards:,} shards, more "
                f"than {MOST_SHARDS:,}; raise corpus.shard_tokens ({corpus['shard_tokens']:,})"
            )
    for domain in corpus["domains"]:
        size = text_bytes(config, domain)
        if size is not None and size > MOST_TEXT:
            raise ConfigError(
                f"corpus.domains.{domain}: {size / 1e12:,.1f} TB of text would be read; ask for fewer "
                "tokens (corpus.tokens), a larger share of the split that needs most (corpus.splits), or "
                "give megabytes"
            )


def _check_parameters(what: str, megabytes: float) -> None:
    parameters = megabytes * MEGABYTE / 4
    if parameters > MOST_PARAMETERS:
        raise ConfigError(
            f"{what} would have {parameters:.1e} parameters, more than {MOST_PARAMETERS:.0e}"
        )
