"""The section `corpus`: what is read, in how many sequences and shards; its checks."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path

from moediff.config.base import SPLITS, Config, files_of, matching_files
from moediff.config.checkpoints import is_gguf
from moediff.config.places import check_loaded, outside
from moediff.config.text_files import check_formats
from moediff.core.errors import ConfigError, first_line, one_line


def text_bytes(config: Config, domain: str) -> int | None:
    """Bytes of text to read of a domain: its `megabytes`, or enough for the token budget.

    Enough is 8 bytes a token (text runs at 3 to 5) of the split that needs most, with a quarter
    more for groups that fall unevenly, rounded up to a power of two: a budget that changes a
    little reads no text again. Files that a user names are read whole: None.
    """
    corpus = config["corpus"]
    settings = corpus["domains"][domain]
    if settings["source"] == "files":
        return None
    if settings["megabytes"] is not None:
        return int(settings["megabytes"] * 1e6)
    weight = settings["weight"] / sum(other["weight"] for other in corpus["domains"].values())
    shares = corpus["splits"] | {"train": 1 - sum(corpus["splits"].values())}
    need = max(corpus["tokens"][split] * weight / shares[split] for split in SPLITS)
    return 2 ** math.ceil(math.log2(10 * need))


def text_files(config: Config, domain: str) -> list[str]:
    """The user's files that a domain is read from; none for the other sources."""
    where, results = f"corpus.domains.{domain}.paths", config["results"]
    patterns = config["corpus"]["domains"][domain].get("paths", [])
    return [
        match
        for pattern in patterns
        for match in outside(where, pattern, matching_files(pattern), results)
    ]


def tokenizer_files(name: str) -> list[str]:
    """Files of a tokenizer in a local folder, or the GGUF file with it; none for a Hub id."""
    if is_gguf(name):
        return [name] if Path(name).is_file() else []
    return files_of(name, ("*token*.json", "vocab.*", "merges.txt", "*.model"))


def sequences(config: Config, split: str) -> int:
    """Packed sequences of a split: its token budget in whole sequences."""
    return config["corpus"]["tokens"][split] // config["corpus"]["sequence"]["length"]


def domain_budgets(tokens: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Tokens of each domain, in proportion to the weights, summing to `tokens` exactly.

    Raises ConfigError for a domain that gets none, and for weights whose sum is no number.
    """
    try:
        sums = list(itertools.accumulate(map(float, weights.values())))
        edges = [0, *(round(part / sums[-1] * tokens) for part in sums)]
    except (OverflowError, ValueError) as error:
        raise ConfigError(
            "corpus.domains: the weights add up to more than a number holds; write smaller ones"
        ) from error
    budgets = {name: edges[i + 1] - edges[i] for i, name in enumerate(weights)}
    for name, budget in budgets.items():
        if not budget:
            raise ConfigError(
                f"corpus.domains.{name}.weight: {weights[name]:.3g} of {sums[-1]:.3g} is none of "
                f"{tokens} tokens; give it more weight, or leave the domain out"
            )
    return budgets


def shards_again(config: Config, split: str = "validation") -> int:
    """Shards of a split on which models are run again: enough for `reruns.sequences`."""
    per_shard = config["corpus"]["shard_tokens"] // config["corpus"]["sequence"]["length"]
    needed = -(-config["reruns"]["sequences"] // per_shard)
    return min(needed, shard_count(config, split))


def shard_count(config: Config, split: str) -> int:
    """Shards of a split, each of at most `shard_tokens` tokens."""
    per_shard = config["corpus"]["shard_tokens"] // config["corpus"]["sequence"]["length"]
    return -(-sequences(config, split) // per_shard)


def check_corpus(config: Config) -> None:
    corpus = config["corpus"]
    if corpus["splits"]["fit"] + corpus["splits"]["validation"] >= 1:
        raise ConfigError("corpus.splits: fit and validation leave nothing for train")
    length = corpus["sequence"]["length"]
    for split, tokens in corpus["tokens"].items():
        if tokens < length:
            raise ConfigError(
                f"corpus.tokens.{split}: {tokens} is less than one sequence of {length} tokens"
            )
    if corpus["shard_tokens"] < length:
        raise ConfigError(
            f"corpus.shard_tokens: {corpus['shard_tokens']} is less than one sequence of {length}"
        )
    for name, domain in corpus["domains"].items():
        pattern = domain.get("group_pattern")
        if pattern is not None:
            if domain["group"] is None:
                raise ConfigError(f"corpus.domains.{name}.group_pattern: needs a group column")
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError, ValueError) as error:
                raise ConfigError(
                    f"corpus.domains.{name}.group_pattern: '{one_line(pattern, 80)}' is not a regular "
                    f"expression ({first_line(error)})"
                ) from error
        check_formats(f"corpus.domains.{name}.paths", text_files(config, name), domain.get("group"))
    weights = {name: domain["weight"] for name, domain in corpus["domains"].items()}
    for tokens in corpus["tokens"].values():
        domain_budgets(tokens // length * length, weights)
    if "load" in corpus["tokenizer"]:
        check_loaded("corpus.tokenizer.load", corpus["tokenizer"]["load"], config["results"])
