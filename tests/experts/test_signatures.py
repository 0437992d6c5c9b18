"""Telling a text's domain from its routing."""

from __future__ import annotations

import numpy as np

from moediff.experts import signatures


def test_domains_with_experts_of_their_own_are_all_told() -> None:
    random = np.random.default_rng(0)
    domain = np.arange(24) % 3
    shares = np.eye(3)[domain] + 0.1 * random.random((24, 3))
    found = signatures.signature_accuracy(shares, np.full(24, 100), domain, 99)
    assert found["accuracy"] == 1
    assert found["chance"] == 1 / 3
    assert found["p"]["above"] == found["p"]["smallest"] == 1 / 100
    assert found["groups"] == [8, 8, 8]


def test_noise_is_inside_its_null() -> None:
    inside, values = [], []
    for seed in range(60):
        random = np.random.default_rng(seed)
        domain = np.arange(30) % 2
        found = signatures.signature_accuracy(
            random.random((30, 16)), random.integers(50, 500, 30), domain, 60, seed
        )
        inside.append(found["p"]["above"] > 0.05)
        values.append(found["accuracy"] - found["null"]["mean"])
    assert np.mean(inside) > 0.88
    assert abs(np.mean(values)) < 0.04


def test_a_group_does_not_stand_in_its_own_centre() -> None:
    # The two groups of a domain are opposite: each is nearer to the other domain's centre than to the rest of
    # its own, and with itself in the centre it would not be.
    shares = np.array([[2.0, 1, 0], [-2, 1, 0], [0.1, 2, 3], [0.1, 2, -3]])
    found = signatures.signature_accuracy(shares, np.full(4, 100), np.array([0, 0, 1, 1]), 20)
    assert found["accuracy"] == 0


def test_short_texts_and_lone_ones_are_left_out() -> None:
    shares = np.random.default_rng(0).random((5, 4))
    tokens = np.array([500, 500, 10, 500, 500])
    assert signatures.signature_accuracy(shares, tokens, np.array([0, 0, 1, 1, 2]), 20) == {}
    found = signatures.signature_accuracy(
        np.tile(shares, (2, 1)), np.tile(tokens, 2), np.tile([0, 0, 1, 1, 2], 2), 20
    )
    assert found["groups"] == [4, 2, 2]


def test_length_alone_tells_nothing() -> None:
    """Short groups have noisy signatures; where one domain is short that must not count."""
    told = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        domain = np.repeat([0, 1], 20)
        tokens = np.where(domain == 0, 40, 4000)
        shares = np.stack([random.multinomial(n, np.full(8, 1 / 8)) / n for n in tokens])
        found = signatures.signature_accuracy(shares, tokens, domain, 40, seed)
        told.append(found["p"]["above"] <= 0.05)
    assert np.mean(told) < 0.2
