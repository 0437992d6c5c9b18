"""Rules that say of a dictionary's features whose they are: the first kind's, the second kind's, or neither.

A rule of two sources says which of the two has a feature alone; `by_vote` makes one verdict of all pairs.

    F  live features      S  sources      D  summed widths
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from moediff.analysis import kinds as usages
from moediff.analysis.classes import classify, relative_norm
from moediff.analysis.deletion import deleted_alone
from moediff.analysis.differential import differential
from moediff.analysis.panel import users
from moediff.dictionaries.blocks import EXCLUSIVE
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.synthetic.planted import COMMON, FIRST, KINDS, SECOND, first_half
from moediff.synthetic.scoring import Found
from moediff.synthetic.votes import ABSENT, NONE, grouped, standard, vote
from moediff.synthetic.world import BATCH, CPU, Sources, World

DEAD = "dead"


@dataclass(frozen=True)
class Judged:
    """All features of a method's dictionaries, and what they are by a threshold."""

    directions: np.ndarray  # [feature, D]
    kinds: Callable[[float], np.ndarray]  # threshold -> [feature] of FIRST, SECOND, COMMON or DEAD

    def found(self, threshold: float) -> Found:
        """The live ones, attributed by a threshold."""
        kinds = self.kinds(threshold)
        live = kinds != DEAD
        return Found(self.directions[live], kinds[live])


# Of a dictionary over some sources; its directions are over them alone.
Rule = Callable[[World, str, Sources], Judged]
# Of a whole world.
Verdict = Callable[[World, str], Judged]


# --- over some sources ----------------------------------------------------------------------------


def by_norm(world: World, recipe: str, sources: Sources) -> Judged:
    """A pair's free features by relative norm: below the threshold, or above 1 less it."""
    dictionary = world.dictionary(recipe, sources)
    relative = relative_norm(dictionary.norms().double().numpy())
    fired, blocks = _firings(world, recipe, sources), dictionary.shape.blocks()
    names = {"A-only": FIRST, "B-only": SECOND, "dead": DEAD}

    def kinds(threshold: float) -> np.ndarray:
        found = classify(blocks, fired, relative, 1, (threshold, 1 - threshold))
        return np.array([names.get(name, COMMON) for name in found])

    return Judged(_joint(dictionary), kinds)


def by_block(world: World, recipe: str, sources: Sources) -> Judged:
    """A pair's exclusive features; a threshold changes nothing."""
    dictionary = world.dictionary(recipe, sources)
    names = {f"{EXCLUSIVE}-{source}": kind for source, kind in enumerate(KINDS)}
    found = np.array([names.get(block, COMMON) for block in dictionary.shape.blocks()])
    alive = _firings(world, recipe, sources) > 0
    return Judged(_joint(dictionary), lambda _: np.where(alive, found, DEAD))


def by_users(world: World, recipe: str, sources: Sources) -> Judged:
    """Features that every source of one kind uses and none of the other; the threshold is the floor."""
    dictionary = world.dictionary(recipe, sources)
    alive = _firings(world, recipe, sources) > 0
    alone = deleted_alone(dictionary, world.rows(sources), BATCH, CPU)
    half = first_half(len(sources))

    def kinds(threshold: float) -> np.ndarray:
        used = users(alone, alive, threshold)
        sides = [~alive, (used == half).all(1), (used == ~half).all(1)]
        return np.select(sides, [DEAD, FIRST, SECOND], COMMON)

    return Judged(_joint(dictionary), kinds)


def by_t(world: World, recipe: str, sources: Sources) -> Judged:
    """Features that one kind uses more, by a moderated t over log usage; the threshold is that of q."""
    dictionary = world.dictionary(recipe, sources)
    alive = _firings(world, recipe, sources) > 0
    alone = deleted_alone(dictionary, world.rows(sources), BATCH, CPU)
    t, q = np.zeros(len(alive)), np.ones(len(alive))
    if not usages.unexplained(alone, [str(source) for source in sources]):
        table = differential(usages.usage(alone), int(first_half(len(sources)).sum()))
        feature = table["feature"].to_numpy()
        t[feature], q[feature] = table["t"].to_numpy(), table["q"].to_numpy()

    def kinds(threshold: float) -> np.ndarray:
        certain = q <= threshold
        return np.select([~alive, certain & (t > 0), certain & (t < 0)], [DEAD, *KINDS], COMMON)

    return Judged(_joint(dictionary), kinds)


def _joint(dictionary: Dictionary) -> np.ndarray:
    """Decoders [feature, D] of all its sources, in float64."""
    return torch.cat(in_float64(dictionary).decoders(), dim=1).numpy()


def _firings(world: World, recipe: str, sources: Sources) -> np.ndarray:
    """Validation rows on which each feature fires."""
    return (world.values(recipe, sources) > 0).sum(0)


# --- over a whole world ---------------------------------------------------------------------------


def over_all(rule: Rule) -> Verdict:
    """What a rule says of one dictionary over all sources."""
    return lambda world, recipe: rule(world, recipe, world.sources)


def by_vote(rule: Rule) -> Verdict:
    """What a rule of two sources says of every pair, made one verdict as `votes` says."""

    def verdict(world: World, recipe: str) -> Judged:
        pairs = world.pairs()
        judged = [rule(world, recipe, pair) for pair in pairs]
        groups, firsts = grouped([standard(world.values(recipe, pair)) for pair in pairs])
        directions, shared = _summed(world, groups, pairs, [one.directions for one in judged])

        def kinds(threshold: float) -> np.ndarray:
            says = np.full((len(pairs), firsts.shape[1]), ABSENT, object)
            for said, one, group in zip(says, judged, groups, strict=True):
                live = group != NONE
                said[group[live]] = one.kinds(threshold)[live]
            return np.where(shared, vote(says, pairs, len(world.sources)), DEAD)

        return Judged(directions, kinds)

    return verdict


def by_match(world: World, recipe: str) -> Judged:
    """Features of one SAE a source, made one verdict as `votes` says: of a pair that source has a feature in
    whose SAE some feature correlates with the group's first as much as the threshold says."""
    alone = [(source,) for source in world.sources]
    values = [standard(world.values(recipe, one)) for one in alone]
    groups, firsts = grouped(values)
    joint = [_joint(world.dictionary(recipe, one)) for one in alone]
    directions, shared = _summed(world, groups, alone, joint)
    alike = np.array([(own.T @ firsts).max(0) for own in values])  # [S, G]
    pairs = world.pairs()
    first, second = np.array(pairs).T

    def kinds(threshold: float) -> np.ndarray:
        has = alike >= threshold
        sides = [has[first] & ~has[second], ~has[first] & has[second], has[first] & has[second]]
        says = np.select(sides, [*KINDS, COMMON], ABSENT)
        return np.where(shared, vote(says, pairs, len(world.sources)), DEAD)

    return Judged(directions, kinds)


def _summed(
    world: World,
    groups: Sequence[np.ndarray],
    members: Sequence[Sources],
    directions: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Sums [G, D] of the directions [F, d] of each group's features, of dictionaries over these sources, and
    whether more than one dictionary has it [G]: what one alone has is noise of its fit."""
    columns = world.columns()
    count = 1 + max(group.max(initial=NONE) for group in groups)
    found, having = np.zeros((count, columns[-1].stop)), np.zeros(count, int)
    for group, sources, own in zip(groups, members, directions, strict=True):
        live = group != NONE
        having[group[live]] += 1
        into = np.concatenate([np.arange(columns[s].start, columns[s].stop) for s in sources])
        found[np.ix_(group[live], into)] += own[live]
    return found, having > 1
