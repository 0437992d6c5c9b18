"""n-gram losses: true probabilities, known answers, and a plain model written a second way."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from moediff.core import artifact
from moediff.corpus import ngrams
from moediff.corpus.ngrams import ORDERS, ngram_losses
from moediff.corpus.token_shards import TokenSplit, write_token_shard

PROVENANCE = artifact.made_by("token_shards")
Split = Callable[..., TokenSplit]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Writes sequences as one shard and opens it; without `document` a sequence is a document."""
    number = iter(range(1_000_000))

    def write(
        tokens: Sequence,
        document: Sequence | None = None,
        domain: Sequence | None = None,
        domains: Sequence[str] = ("one",),
        across: bool = False,
    ) -> TokenSplit:
        tokens = np.asarray(tokens, np.uint16)
        rows = np.broadcast_to(np.arange(len(tokens))[:, None], tokens.shape)
        document = np.asarray(rows if document is None else document, np.int64)
        arrays = {
            "tokens": tokens,
            "document": document,
            "group": document,
            "domain": np.zeros(tokens.shape, np.uint8)
            if domain is None
            else np.asarray(domain, np.uint8),
            "start": np.zeros(tokens.shape, np.uint32),
            "end": np.ones(tokens.shape, np.uint32),
            "word_end": np.ones(tokens.shape, bool),
        }
        path = tmp_path / f"{next(number)}.h5"
        write_token_shard(path, arrays, domains, "abc", 0, PROVENANCE, [])
        return TokenSplit([path], across)

    return write


def losses(
    train: TokenSplit, validation: TokenSplit, vocabulary: int, domain: str = "all"
) -> dict[str, float]:
    rows = ngram_losses(train, validation, vocabulary)
    return {row["model"]: row["cross_entropy"] for row in rows if row["domain"] == domain}


def documents(count: int, length: int, vocabulary: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a noisy walk and, crossing the sequences, documents of 1 to 12 tokens."""
    random = np.random.default_rng(seed)
    steps = random.choice([1, 1, 1, 2, 3, 5], (count, length)).cumsum(axis=1)
    edges = np.repeat(np.arange(count * length), random.integers(1, 13, count * length))
    return steps % vocabulary, edges[: count * length].reshape(count, length)


# --- probabilities ---------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 4])  # 4: no n-gram occurs once, the discount is fixed
def test_probabilities_sum_to_one_over_the_vocabulary(split: Split, copies: int) -> None:
    size = 11  # tokens 9 and 10 never occur in train
    walk, document = documents(40, 20, 9, seed=0)
    train = split(np.tile(walk, (copies, 1)), np.tile(document, (copies, 1)))
    names = [f"w{word}" for word in range(size)]
    seen = set()
    for history in [(0, 1), (3, 4), (8, 2), (7, 7), (4, 10), (10, 3), (9, 9), (1, 0)]:
        # One sequence for every word; the word stands in a domain of its own.
        rows = [[*history, word] for word in range(size)]
        domain = [[size, size, word] for word in range(size)]
        validation = split(rows, None, domain, [*names, "history"])
        found = ngram_losses(train, validation, size)
        for order in ORDERS:
            chances = [
                math.exp(-row["cross_entropy"])
                for row in found
                if row["model"] == order and row["domain"] != "history" and row["domain"] != "all"
            ]
            assert len(chances) == size
            assert min(chances) > 0
            assert math.fsum(chances) == pytest.approx(1, abs=1e-12), (history, order)
            seen.add((order, round(max(chances), 6)))
    assert len({chance for order, chance in seen if order == "unigram"}) == 1
    assert len({chance for order, chance in seen if order == "trigram"}) > 3


def plainly(train: TokenSplit, validation: TokenSplit, vocabulary: int, order: int) -> list[float]:
    """-log p of every target: the same model from its formula, with dictionaries and loops."""

    def targets(split: TokenSplit) -> list[list[int]]:
        """For every target, its segment up to and with it."""
        found = []
        for row, starts in zip(split.tokens[:].tolist(), split.starts[:].tolist(), strict=True):
            segment = []
            for token, start in zip(row, starts, strict=True):
                segment = [token] if start else [*segment, token]
                if not start:
                    found.append(segment)
        return found

    counts = {n: Counter() for n in range(1, order + 1)}
    for segment in targets(train):
        for n in counts:
            if len(segment) >= n:
                counts[n][tuple(segment[len(segment) - n :])] += 1
    totals, kinds, discount = defaultdict(int), defaultdict(int), {}
    for n, found in counts.items():
        values = list(found.values())
        once, twice = values.count(1), values.count(2)
        discount[n] = once / (once + 2 * twice) if once else 0.5
        for gram, count in found.items():
            totals[n, gram[:-1]] += count
            kinds[n, gram[:-1]] += 1

    def chance(gram: tuple[int, ...]) -> float:
        n = len(gram)
        if n == 0:
            return 1 / vocabulary
        total, lower = totals[n, gram[:-1]], chance(gram[1:])
        if total == 0:
            return lower
        share = discount[n] * kinds[n, gram[:-1]] / total
        return max(counts[n][gram] - discount[n], 0) / total + share * lower

    return [-math.log(chance(tuple(segment[-order:]))) for segment in targets(validation)]


@pytest.mark.parametrize("across", [False, True])
def test_equals_the_formula_written_with_loops(split: Split, across: bool) -> None:
    train = split(*documents(60, 24, 13, seed=1), across=across)
    validation = split(*documents(20, 24, 13, seed=2), across=across)
    found = losses(train, validation, 14)
    for name, order in ORDERS.items():
        expected = plainly(train, validation, 14, order)
        assert len(expected) == validation.is_target[:].sum()
        assert found[name] == pytest.approx(np.mean(expected), abs=1e-12)
    assert found["bigram"] < found["unigram"] - 0.5


@pytest.mark.parametrize("block", [1, 170, 400])
def test_counting_in_blocks_changes_nothing(split: Split, monkeypatch, block: int) -> None:
    train = split(*documents(60, 24, 13, seed=1))
    validation = split(*documents(20, 24, 13, seed=2))
    whole = losses(train, validation, 14)
    for name, size in (("BLOCK", block), ("STRETCH", block), ("LEAF", 128)):
        monkeypatch.setattr(ngrams, name, size)
    assert losses(train, validation, 14) == whole


@pytest.mark.parametrize("count", [1, 9, 100, 127, 128, 129, 1000, 65_537, 300_001])
@pytest.mark.parametrize("leaf", [128, 1 << 16])
def test_a_sum_in_parts_is_that_of_numpy_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch, count: int, leaf: int
) -> None:
    monkeypatch.setattr(ngrams, "LEAF", leaf)
    numbers = -np.log(np.random.default_rng(count).random(count) ** 3)
    left = iter(numbers)
    found = ngrams._pairwise_sum(count, lambda size: np.fromiter(left, np.float64, size))
    assert float(found) == float(numbers.sum())
    assert next(left, None) is None


# --- known answers ---------------------------------------------------------------------------


def test_unigram_on_its_own_train_split_is_near_the_entropy(split: Split) -> None:
    share = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    tokens = np.random.default_rng(0).choice(5, size=(100, 201), p=share)
    train = split(tokens)
    measured = np.bincount(tokens[:, 1:].ravel()) / 20_000
    entropy = -(measured * np.log(measured)).sum()
    assert entropy == pytest.approx(-(share * np.log(share)).sum(), abs=0.02)
    found = losses(train, train, 5)
    assert entropy - 1e-12 < found["unigram"] < entropy + 1e-3
    assert found["bigram"] == pytest.approx(entropy, abs=0.01)  # nothing to gain from the past


def test_a_cycle_is_certain_to_a_bigram_and_even_to_a_unigram(split: Split) -> None:
    tokens = np.add.outer(np.arange(50), np.arange(65)) % 8
    found = losses(split(tokens), split(tokens[:3]), 8)
    assert found["unigram"] == pytest.approx(math.log(8), abs=1e-3)
    assert 0 < found["bigram"] < 2e-3
    assert 0 < found["trigram"] < 2e-3


def test_a_trigram_sees_two_tokens_back(split: Split) -> None:
    # The parity of the sum of the last two tokens is the next: a coin to anything shorter.
    random = np.random.default_rng(0)
    tokens = random.integers(0, 2, (400, 40))
    for place in range(2, 40):
        tokens[:, place] = tokens[:, place - 1] ^ tokens[:, place - 2]
    kept = tokens[np.arange(400) % 4 > 0]
    validation = split(tokens[:100], np.tile(np.arange(100)[:, None], (1, 40)))
    found = losses(split(kept), validation, 2)
    ones = tokens[:, 1:].mean()
    even = -(ones * math.log(ones) + (1 - ones) * math.log(1 - ones))
    assert found["unigram"] == pytest.approx(even, abs=0.05)
    assert found["trigram"] < 0.05


def test_an_unseen_word_gets_the_discounted_mass_by_hand(split: Split) -> None:
    # Targets 2, 2, 2, 3: c = 4, n1 = 1, n2 = 0, so D = 1; p(2) = 2/4 + 1 2/4 1/10, p(7) = 1/20.
    train = split([[1, 2, 2], [1, 2, 3]])
    assert losses(train, split([[5, 2]]), 10)["unigram"] == pytest.approx(-math.log(0.55))
    assert losses(train, split([[5, 3]]), 10)["unigram"] == pytest.approx(-math.log(0.05))
    assert losses(train, split([[5, 7]]), 10)["unigram"] == pytest.approx(-math.log(0.05))


# --- segments --------------------------------------------------------------------------------


def test_counts_never_cross_a_segment(split: Split) -> None:
    tokens, document = [[0, 1, 2, 3, 4, 4]] * 2, [[1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4]]
    validation = split([[2, 3]])

    # Apart: targets 1, 2, 4, 4 twice; D = 1/2, p(3) = 1/2 3/8 1/5. Nothing ever follows 2.
    apart = losses(split(tokens, document), validation, 5)
    assert apart["unigram"] == pytest.approx(-math.log(0.0375))
    assert apart["bigram"] == apart["unigram"]

    # Joined: 3 as well; p(3) = 1.5/10 + 1/2 4/10 1/5; p(3 | 2) = 1.5/2 + 1/2 1/2 p(3).
    joined = losses(split(tokens, document, across=True), validation, 5)
    assert joined["unigram"] == pytest.approx(-math.log(0.19))
    assert joined["bigram"] == pytest.approx(-math.log(0.7975))


def test_only_positions_with_a_past_are_scored_and_only_by_their_segment(split: Split) -> None:
    train = split(np.arange(40).reshape(4, 10) % 6)
    joined = split([[0, 1, 2, 5, 4, 3]], [[1, 1, 1, 2, 2, 2]])
    alone = split([[0, 1, 2], [5, 4, 3]])
    assert losses(train, joined, 6) == losses(train, alone, 6)
    assert losses(train, split([[0, 1, 2, 5, 4, 3]]), 6) != losses(train, alone, 6)


def test_a_short_past_keeps_the_lower_order(split: Split) -> None:
    train = split(*documents(60, 24, 7, seed=3))
    found = losses(train, split([[1, 2], [4, 6], [0, 0]]), 7)
    assert found["trigram"] == found["bigram"] != found["unigram"]


# --- domains ---------------------------------------------------------------------------------


def test_domains_average_to_all_by_their_targets(split: Split) -> None:
    train = split(*documents(60, 24, 13, seed=1))
    walk, document = documents(20, 24, 13, seed=2)
    domain = document % 7 // 3  # three domains of unlike size
    validation = split(walk, document, domain, ["code", "science", "stories"])
    rows = ngram_losses(train, validation, 13)
    assert [(row["model"], row["domain"]) for row in rows] == [
        (model, label) for model in ORDERS for label in ("all", "code", "science", "stories")
    ]
    counts = np.bincount(domain[:, 1:][validation.is_target[:]])
    for model in ORDERS:
        every, *parts = (row["cross_entropy"] for row in rows if row["model"] == model)
        assert len(set(parts)) == 3
        assert np.average(parts, weights=counts) == pytest.approx(every, abs=1e-12)


def test_a_domain_is_scored_as_if_it_stood_alone(split: Split) -> None:
    train = split(*documents(60, 24, 13, seed=1))
    walk = documents(4, 24, 13, seed=2)[0]
    domain = np.repeat([[0], [0], [1], [1]], 24, axis=1)
    mixed = split(walk, None, domain, ["code", "stories"])
    alone = losses(train, split(walk[2:]), 13)
    assert losses(train, mixed, 13, "stories") == pytest.approx(alone, abs=1e-12)


def test_a_domain_without_targets_has_no_row(split: Split) -> None:
    train = split(*documents(60, 24, 13, seed=1))
    rows = ngram_losses(train, split([[1, 2]], None, [[0, 0]], ["code", "stories"]), 13)
    assert [row["domain"] for row in rows] == ["all", "code"] * 3


def test_documents_too_short_for_a_trigram(split: Split) -> None:
    found = losses(split([[1, 2], [1, 2]]), split([[1, 2]]), 5)
    assert found["trigram"] == found["bigram"]
