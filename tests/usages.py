"""Made panels: what features explain in models of two kinds, with noise like the study's."""

from __future__ import annotations

import numpy as np

# Of 4,092 live features of the study's panel (docs/reference/study/panel.json) 3,821 are used by all eight
# models, 135 by seven, then 68, 29, 19, 20 and none by two or one; of as many made here 3,793, then 175, 68,
# 31, 16, 6, 3 and 1. The study's own count holds whatever sets its kinds apart, so this noise is no smaller.
VARIATION = 0.22  # median over features of a model's standard deviation over the mean
UNEVEN = 0.8  # standard deviation of the logarithm of the same
COMMON = 0.2  # of logarithms: what moves many features of a model together, in two directions
IMPORTANCE = 1.5  # standard deviation of the logarithm of what a feature explains


def explained(
    random: np.random.Generator,
    features: int,
    models: tuple[int, int] = (4, 4),
    times: float = 1.0,
    share: float = 0.1,
    common: float = COMMON,
) -> np.ndarray:
    """What each feature explains in each model [F, S]: `share` of them `times` as much in the first kind.

    A model's value of a feature is a gamma variable, so that some models nearly miss it and none has it
    without bound; features differ in how much they vary.
    """
    count = sum(models)
    variance = (VARIATION * np.exp(UNEVEN * random.normal(size=(features, 1)))) ** 2
    found = random.gamma(1 / variance, variance, (features, count))
    together = random.normal(size=(features, 2)) @ random.normal(size=(2, count)) / np.sqrt(2)
    found *= np.exp(common * together + IMPORTANCE * random.normal(size=(features, 1)))
    found[: round(share * features), : models[0]] *= times
    return found / found.sum(0)
