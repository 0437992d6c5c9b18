"""Information of experts, domains and tokens: closed forms, and nulls that hold."""

from __future__ import annotations

import numpy as np
import pytest

from moediff.core.errors import UserError
from moediff.experts import domain_information as information


def made(
    random: np.random.Generator, groups: int, tokens: int, domains: int, own: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Experts [token, 1] of 12, group and domain: a share `own` goes to experts of the domain alone."""
    domain = np.arange(groups) % domains
    group = np.repeat(np.arange(groups), tokens)
    size = 12 // domains
    inside = domain[group] * size + random.integers(size, size=len(group))
    anywhere = random.integers(12, size=len(group))
    experts = np.where(random.random(len(group)) < own, inside, anywhere)
    return experts[:, None], group, domain


def uses(experts: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    return np.bincount(group * 12 + experts[:, 0], minlength=groups * 12).reshape(groups, 12)


@pytest.mark.parametrize("domains", [2, 3, 4])
def test_experts_of_one_domain_each_tell_all_of_it(domains: int) -> None:
    experts, group, domain = made(np.random.default_rng(0), 24, 40, domains, own=1)
    found = information.domain_information(uses(experts, group, 24), domain, 50)
    assert found["information"] == pytest.approx(np.log(domains), abs=0.01)
    assert found["most"] == np.log(domains)
    exact = np.kron(np.eye(domains), np.ones((1, 3))) * 5
    assert information.expert_and_domain(exact, np.arange(domains)) == pytest.approx(
        np.log(domains)
    )


def test_domains_weigh_the_same_whatever_their_tokens() -> None:
    counts = np.array([[9.0, 1.0], [2.0, 8.0]])
    plain = information.expert_and_domain(counts, np.array([0, 1]))
    assert information.expert_and_domain(counts * [[100], [1]], np.array([0, 1])) == pytest.approx(
        plain
    )
    p, mean = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0.55, 0.45])
    assert plain == pytest.approx((p * np.log(p / mean)).sum() / 2)


def test_random_routing_is_inside_its_null_and_its_interval_holds_zero() -> None:
    inside, held = [], []
    for seed in range(60):
        random = np.random.default_rng(seed)
        experts, group, domain = made(random, 30, 20, 2, own=0)
        found = information.domain_information(uses(experts, group, 30), domain, 60, seed)
        inside.append(found["p"]["above"] > 0.05)
        low, high = found["interval"]
        held.append(low <= 0 <= high)
    assert np.mean(inside) > 0.88  # 0.95 +- 0.028
    assert np.mean(held) > 0.85


def test_the_interval_holds_what_an_endless_text_would_tell() -> None:
    inside = np.full((2, 12), 0.4 / 12)
    inside[0, :6] += 0.6 / 6
    inside[1, 6:] += 0.6 / 6
    truth = information.expert_and_domain(inside, np.array([0, 1]))
    held = []
    for seed in range(60):
        experts, group, domain = made(np.random.default_rng(seed), 40, 30, 2, own=0.6)
        found = information.domain_information(uses(experts, group, 40), domain, 40, seed)
        low, high = found["interval"]
        held.append(low <= truth <= high)
        assert found["p"]["above"] == found["p"]["smallest"]
    assert np.mean(held) > 0.85


def test_one_domain_has_nothing_to_tell() -> None:
    with pytest.raises(UserError, match="needs two"):
        information.domain_information(np.ones((4, 3)), np.zeros(4, int), 20)
    assert information.domain_information(np.ones((6, 3)), np.arange(6) % 2, 20)["interval"] is None


def test_an_expert_for_each_word_tells_all_of_words_and_nothing_of_domains_within_them() -> None:
    random = np.random.default_rng(1)
    domain = np.arange(20) % 2
    group = np.repeat(np.arange(20), 50)
    # Words 0 to 5 in one domain, 3 to 8 in the other: half of the words tell the domain by themselves.
    token = random.integers(6, size=len(group)) + 3 * domain[group]
    experts = token[:, None]
    told = information.token_information(experts, token, 12, 20)
    share = np.bincount(token) / len(token)
    assert told["information"] == pytest.approx(-(share * np.log(share)).sum())
    assert told["p"]["above"] == told["p"]["smallest"]
    within = information.domain_information_within_tokens(experts, token, group, domain, 12, 20)
    assert within["information"] == pytest.approx(0, abs=1e-12)
    across = information.domain_information(uses(experts, group, 20), domain, 50)
    assert across["corrected"] > 0.2


def test_an_expert_for_each_domain_tells_of_it_within_every_word() -> None:
    random = np.random.default_rng(2)
    domain = np.arange(20) % 2
    group = np.repeat(np.arange(20), 60)
    token = random.integers(5, size=len(group))
    experts = np.stack([domain[group], 2 + domain[group]], 1)  # k = 2
    within = information.domain_information_within_tokens(experts, token, group, domain, 12, 20)
    seen = [domain[group][token == word].mean() for word in range(5)]
    entropy = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in seen]
    assert within["information"] == pytest.approx(np.average(entropy, weights=np.bincount(token)))
    none = information.token_information(experts, token, 12, 40)
    assert abs(none["corrected"]) < 4 * none["null"]["sd"]
