"""Paired comparisons over seeds: mean effect, 95 % interval, two-sided p, by Student's t distribution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

CONFIDENCE = 0.95


def t_probability(t: float, freedom: int) -> float:
    """Return the probability that Student's t with `freedom` degrees is within ±|t| (Abramowitz & Stegun 26.7.3-4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    term = cosine if freedom % 2 else 1.0
    total = term if freedom > 1 else 0.0
    for step in range(2 + freedom % 2, freedom - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    return (2 / math.pi) * (angle + sine * total) if freedom % 2 else sine * total


def t_quantile(probability: float, freedom: int) -> float:
    """Return the t that is exceeded in absolute value with 1 - `probability`."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < probability else (low, middle)
    return high


@dataclass(frozen=True)
class Effect:
    """What one method changes against another with the same seeds: a ratio, or a difference."""

    is_ratio: bool
    """For measures where lower is better; 1 is no change. Otherwise a difference; 0 is no change."""
    mean: float
    """Ratio of the means, or difference of the means."""
    low: float | None
    """Lower end of the 95 % interval; none with one seed."""
    high: float | None
    """Upper end."""
    p: float | None
    """Two-sided p of the paired t test; none with one seed."""
    num_seeds: int
    num_better: int
    """Seeds for which it is better."""

    @property
    def neutral(self) -> float:
        """Return no change."""
        return 1.0 if self.is_ratio else 0.0

    @property
    def is_better(self) -> bool | None:
        """Tell whether the whole interval is on the good side, or on the bad one; none where it is on neither."""
        if self.low is None or self.high is None:
            return None
        if self.low <= self.neutral <= self.high:
            return None
        return (self.high < self.neutral) == self.is_ratio

    def text(self, digits: int = 3) -> str:
        """Return the effect with its interval."""
        form = f".{2 if self.is_ratio else digits}f"
        sign, plus = ("× ", "") if self.is_ratio else ("", "+")
        interval = "" if self.low is None else f" [{self.low:{plus}{form}}, {self.high:{plus}{form}}]"
        return f"{sign}{self.mean:{plus}{form}}{interval}"


def compare(values: Sequence[float], baseline: Sequence[float], *, is_ratio: bool) -> Effect:
    """Compare two methods seed by seed.

    Args:
        values: of the method, by seed; above 0 for ratios.
        baseline: of the other method, with the same seeds.
        is_ratio: compare logarithms, for measures where lower is better.
    """
    pairs = list(zip(values, baseline, strict=True))
    if is_ratio:
        effects = [math.log(value / base) for value, base in pairs]
        centre = mean(values) / mean(baseline)
    else:
        effects = [value - base for value, base in pairs]
        centre = mean(effects)
    better = sum(value < base if is_ratio else value > base for value, base in pairs)
    count = len(effects)
    if count < 2:
        return Effect(is_ratio, centre, None, None, None, count, better)
    error = stdev(effects) / math.sqrt(count)
    middle, reach = mean(effects), t_quantile(CONFIDENCE, count - 1) * error
    ends = (middle - reach, middle + reach)
    low, high = (math.exp(end) for end in ends) if is_ratio else ends
    p = 1 - t_probability(middle / error, count - 1) if error else float(middle == 0)
    return Effect(is_ratio, centre, low, high, p, count, better)
