"""The section `corpus`: sequences, shards and bytes of text; domains, splits and tokens that are refused."""

import pytest

from configured import SHIPPED, completed, refused
from conftest import PRESETS, SCHEMA
from moediff.config import complete, corpus
from moediff.core.errors import ConfigError


def test_sequences_and_shards() -> None:
    paper = complete.complete(SHIPPED["paper"], SCHEMA, PRESETS)
    splits = ("train", "fit", "validation")
    assert [corpus.sequences(paper, split) for split in splits] == [1_953_125, 52_734, 1953]
    assert [corpus.shard_count(paper, split) for split in splits] == [954, 26, 1]
    exact = "corpus: {tokens: {train: 8192}, shard_tokens: 2048}"  # 32 sequences, 8 a shard
    assert corpus.shard_count(completed(exact), "train") == 4
    uneven = "corpus: {tokens: {train: 8448}, shard_tokens: 2303}"  # 33 sequences, 8 a shard
    assert corpus.shard_count(completed(uneven), "train") == 5


def test_text_bytes() -> None:
    # A third of 240,000 tokens at 10 bytes from a quarter of the groups: the fit split rules.
    assert corpus.text_bytes(completed(), "code") == pytest.approx(2**22, abs=1)
    heavy = completed("corpus: {domains: {code: {weight: 2}}}")
    assert corpus.text_bytes(heavy, "code") == pytest.approx(2**23, abs=1)
    assert corpus.text_bytes(heavy, "stories") == pytest.approx(2**22, abs=1)
    train = completed("corpus: {tokens: {train: 1_950_000}}")  # 65 % of the groups
    assert corpus.text_bytes(train, "code") == pytest.approx(2**24, abs=1)
    asked = completed("corpus: {domains: {code: {megabytes: 2.5}}}")
    assert corpus.text_bytes(asked, "code") == 2_500_000
    here = {"corpus": {"domains": {"code": {"source": "files", "paths": [__file__]}}}}
    assert corpus.text_bytes(completed(here), "code") is None


BAD = {
    "corpus": ("corpus: {token: 5}", ["corpus", "unknown key 'token'", "tokens"]),
    "domain": ("corpus: {domains: {code: {size: 5}}}", ["corpus.domains.code", "'size'"]),
    "sequence": ("corpus: {sequence: {len: 9}}", ["corpus.sequence", "'len'", "length"]),
    "source kind": (
        "corpus: {domains: {code: {source: stdlibs}}}",
        ["corpus.domains.code.source", "'stdlibs'", "stdlib", "tales"],
    ),
    "several sources": (
        "corpus: {domains: {code: {source: [stdlib]}}}",
        ["corpus.domains.code.source"],
    ),
    "no source": ("corpus: {domains: {a: {weight: 2}}}", ["corpus.domains.a", "'source'"]),
    "files without paths": ("corpus: {domains: {a: {source: files}}}", ["domains.a", "'paths'"]),
    "hub without revision": (
        "corpus: {domains: {a: {source: hub, id: b/c}}}",
        ["corpus.domains.a", "'revision'"],
    ),
    "missing file": (
        "corpus: {domains: {code: {source: files, paths: [not-here/*.parquet]}}}",
        ["corpus.domains.code.paths", "'not-here/*.parquet'"],
    ),
    "count as a share": ("corpus: {tokens: {fit: 0.5}}", ["corpus.tokens.fit", "0.5"]),
    "missing tokens": ("corpus: {tokens!: {train: 4096, fit: 4096}}", ["tokens", "'validation'"]),
    "splits": ("corpus: {splits: {fit: 0.9, validation: 0.1}}", ["corpus.splits", "train"]),
    "less than a sequence": ("corpus: {tokens: {fit: 255}}", ["corpus.tokens.fit", "255", "256"]),
    "shard of no sequence": ("corpus: {shard_tokens: 128}", ["corpus.shard_tokens", "128", "256"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_corpus_is_refused_in_one_line_that_names_the_place(case: str) -> None:
    refused(*BAD[case])


def test_a_group_pattern_that_is_no_regular_expression() -> None:
    here = {"source": "files", "paths": [__file__], "group": "source", "group_pattern": "("}
    with pytest.raises(ConfigError, match=r"corpus\.domains\.code\.group_pattern"):
        completed({"corpus": {"domains": {"code!": here}}})
