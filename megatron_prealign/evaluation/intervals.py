"""Confidence intervals of accuracies."""

import math
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]

_Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def wilson_interval(num_right: int, num_all: int) -> Interval:
    """Return Wilson's 95 % interval of a share: it stays in [0, 1] and is valid for few trials.

    Args:
        num_right: number of successes.
        num_all: number of trials, at least 1.
    """
    share = num_right / num_all
    spread = _Z95**2 / num_all
    centre = (share + spread / 2) / (1 + spread)
    half = _Z95 / (1 + spread) * math.sqrt(share * (1 - share) / num_all + spread / (4 * num_all))
    # Exact at the ends, where rounding would exclude the share itself.
    low = 0.0 if num_right == 0 else centre - half
    high = 1.0 if num_right == num_all else centre + half
    return low, high


def bootstrap_interval(right: Sequence[Sequence[bool]], num_draws: int = 2000) -> Interval:
    """Return the 95 % interval of a mean accuracy, resampling seeds and examples.

    The same examples are drawn for all seeds, so that a few seeds do not make a small test set look large.

    Args:
        right: [seeds, examples], whether each example was right.
        num_draws: bootstrap samples.
    """
    scores = np.asarray(right, dtype=np.float64)
    num_seeds, num_examples = scores.shape
    generator = np.random.Generator(np.random.PCG64(0))
    means = np.empty(num_draws)
    for draw in range(num_draws):
        seeds = generator.integers(num_seeds, size=num_seeds)
        examples = generator.integers(num_examples, size=num_examples)
        means[draw] = scores[seeds].mean(axis=0)[examples].mean()
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
