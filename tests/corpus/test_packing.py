"""Documents packed into sequences: exact budgets, whole documents, each domain from its own text."""

import collections
import random
from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import Tokenizer

from conftest import sentences
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.corpus import encoding, packing
from moediff.corpus.document import group_id
from moediff.corpus.sources import document_id
from packed import pack, plainly

# --- budgets ---------------------------------------------------------------------------------


def test_budgets_are_known() -> None:
    assert packing.domain_budgets(1000, {"a": 1, "b": 1}) == {"a": 500, "b": 500}
    assert packing.domain_budgets(1000, {"a": 3, "b": 1}) == {"a": 750, "b": 250}
    assert packing.domain_budgets(7, {"a": 1}) == {"a": 7}


def test_budgets_sum_exactly_and_follow_the_weights() -> None:
    chance = random.Random(0)
    for _ in range(300):
        weights = {str(i): chance.choice([1, 0.1, chance.random() + 0.01]) for i in range(7)}
        total = chance.randrange(1, 10**10)
        budgets = packing.domain_budgets(total, weights)
        assert list(budgets) == list(weights)
        assert sum(budgets.values()) == total
        for name, budget in budgets.items():
            assert abs(budget - total * weights[name] / sum(weights.values())) <= 1.01


# --- packing ---------------------------------------------------------------------------------


def runs(arrays: dict[str, np.ndarray]) -> list[tuple[int, int, list[int]]]:
    """The stretches of equal document of the whole split: (document, domain, tokens)."""
    document = arrays["document"].ravel()
    edges = np.flatnonzero(np.diff(document)) + 1
    flat = [np.split(arrays[key].ravel(), edges) for key in ("document", "domain", "tokens")]
    for _, domain, _ in zip(*flat, strict=True):
        assert len(set(domain.tolist())) == 1
    return [(int(d[0]), int(n[0]), t.tolist()) for d, n, t in zip(*flat, strict=True)]


@pytest.mark.parametrize("per_shard", [1, 5, 37, 100])
def test_shard_after_shard_equals_all_at_once(
    corpus: Callable, tokenizer: Tokenizer, per_shard: int
) -> None:
    shared = sentences(40, 3)
    paths = corpus(
        a={"train": sentences(400, 1) + shared, "fit": sentences(20, 4)},
        b={"train": shared + sentences(300, 2) + sentences(20, 4)},
    )
    weights = {"a": 3, "b": 2}
    found = pack(paths, weights, tokenizer, 0, "train", 37, 64, 5, per_shard)
    expected = plainly(paths, weights, tokenizer, 0, "train", 37, 64, 5)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes(), name


def test_packing_gives_each_domain_its_budget_of_whole_documents(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    train = {"a": sentences(400, 1), "b": sentences(400, 2), "c": sentences(400, 3)}
    held = {"a": sentences(50, 4), "b": sentences(50, 5), "c": sentences(50, 6)}
    paths = corpus(**{name: {"train": train[name], "fit": held[name]} for name in train})
    weights = {"a": 2, "b": 1, "c": 1}
    arrays = pack(paths, weights, tokenizer, 0, "train", 37, 64, 0)

    assert {key: array.shape for key, array in arrays.items()} == dict.fromkeys(arrays, (37, 64))
    types = {"tokens": "<u2", "start": "<u4", "end": "<u4", "word_end": "|b1"}
    types |= {"document": "<i8", "group": "<i8", "domain": "|u1"}
    assert {key: array.dtype.str for key, array in arrays.items()} == types
    assert np.bincount(arrays["domain"].ravel()).tolist() == [1184, 592, 592]

    texts = {int(document_id(text), 16): (name, text) for name in "abc" for text in train[name]}
    packed = runs(arrays)
    assert len({document for document, _, _ in packed}) == len(packed)  # each in one piece
    cut = collections.Counter()
    for document, domain, found in packed:
        name, text = texts[document]  # and so none of another split
        assert name == "abc"[domain]
        whole = [*tokenizer.encode(text).ids, 0]
        assert found == whole[: len(found)]
        cut[name] += len(found) < len(whole)
    assert max(cut.values()) <= 1  # the last of a domain
    domains = [domain for _, domain, _ in packed]
    assert int(np.count_nonzero(np.diff(domains))) > 50  # mixed, not one after another


def test_packed_tokens_have_the_group_of_their_document_in_its_domain(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    texts = {"a": [f"one {n}" for n in range(9)] + [f"two {n}" for n in range(9)],
             "b": [f"one more {n}" for n in range(9)]}  # fmt: skip
    paths = corpus(**{name: {"fit": part} for name, part in texts.items()})
    arrays = pack(paths, {"a": 2, "b": 1}, tokenizer, 0, "fit", 6, 16, 0)
    group_of = {
        int(document_id(text), 16): group_id(name, text[:3])  # as `corpus` names them
        for name, part in texts.items() for text in part
    }  # fmt: skip
    assert arrays["group"].ravel().tolist() == [group_of[d] for d in arrays["document"].ravel()]
    pairs = set(
        zip(arrays["domain"].ravel().tolist(), arrays["group"].ravel().tolist(), strict=True)
    )
    assert len(pairs) == len(set(group_of.values())) == 3  # one name in two domains is two groups
    assert group_id("a", "one") == int(artifact.digest(b"a", b"one")[:15], 16) < 2**60


def test_packed_tokens_have_the_spans_of_their_documents(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    texts = [f"{number} naïve 狐 🦊 {text}" for number, text in enumerate(sentences(60, 1))]
    arrays = pack(corpus(a={"fit": texts}), {"a": 1}, tokenizer, 0, "fit", 20, 32, 0)
    documents = {int(document_id(text), 16): text for text in texts}
    flat = {key: array.ravel() for key, array in arrays.items()}
    for document in set(flat["document"].tolist()):
        here = flat["document"] == document
        (whole,) = encoding.encode(tokenizer, [documents[document]], 0)
        for key, array in whole.items():
            assert np.array_equal(flat[key][here], array[: here.sum()])


def test_packing_is_fixed_by_its_seed(corpus: Callable, tokenizer: Tokenizer) -> None:
    paths = corpus(a={"fit": sentences(200, 1)}, b={"fit": sentences(200, 2)})
    first, again, other = (
        pack(paths, {"a": 1, "b": 1}, tokenizer, 0, "fit", 20, 32, seed) for seed in (3, 3, 4)
    )
    for key in first:
        assert first[key].tobytes() == again[key].tobytes()
        assert first[key].tobytes() != other[key].tobytes()


def test_packing_does_not_depend_on_the_order_of_the_rows(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    texts = sentences(100, 1)
    packed = [
        pack(corpus(a={"fit": order}), {"a": 1}, tokenizer, 0, "fit", 10, 32, 0)
        for order in (texts, texts[::-1])
    ]
    assert packed[0]["tokens"].tobytes() == packed[1]["tokens"].tobytes()


def test_a_text_that_two_domains_hold_stays_with_the_first(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    shared, across = "held by both", "learnt from by one and held out by the other"
    train, held = sentences(6, 1), sentences(6, 2)
    paths = corpus(
        a={"train": [*train[:3], shared, across], "validation": held[:3]},
        b={"train": [*train[3:], shared], "validation": [*held[3:], across]},
    )

    def everything(split: str, expected: list[str]) -> dict[int, int]:
        """All of a split, packed: the domain of each document."""
        sizes = [sum(len(tokenizer.encode(text).ids) + 1 for text in texts) for texts in expected]
        weights = dict(zip("ab", sizes, strict=True))  # so that each gives all that it has
        arrays = pack(paths, weights, tokenizer, 0, split, 1, sum(sizes), 0)
        return {document: domain for document, domain, _ in runs(arrays)}

    def ids(texts: list[str], domain: int) -> dict[int, int]:
        return {int(document_id(text), 16): domain for text in texts}

    first = [*train[:3], shared, across]
    assert everything("train", [first, train[3:]]) == ids(first, 0) | ids(train[3:], 1)
    found = everything("validation", [held[:3], held[3:]])
    assert found == ids(held[:3], 0) | ids(held[3:], 1)  # `across` is learnt from: not held out
    with pytest.raises(UserError, match="domain 'b': split 'validation'"):
        everything("validation", [held[:3], [*held[3:], across]])


def test_too_little_text_names_the_domain_and_the_split(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    texts = sentences(400, 1)
    paths = corpus(a={"fit": texts}, small={"train": texts[:50], "fit": ["moon", "moon moon"]})
    size = sum(len(tokenizer.encode(text).ids) + 1 for text in ("moon", "moon moon"))
    with pytest.raises(UserError) as caught:
        pack(paths, {"a": 1, "small": 1}, tokenizer, 0, "fit", 10, 32, 0)
    message = str(caught.value)
    assert "\n" not in message
    assert f"domain 'small': split 'fit' holds {size} tokens in 2 documents, 160 are" in message
    assert "corpus.tokens.fit" in message
