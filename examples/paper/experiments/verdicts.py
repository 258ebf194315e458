"""Whether claims hold: confirmed, not confirmed, not testable at this scale, or open while cells are missing.

Methods are compared in pairs over seeds: mean effect, 95 % interval, two-sided p, by Student's t distribution.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from examples.paper.experiments.cells import Cell, Result
from examples.paper.experiments.specs import CONDITION, Claim, Experiment, Measure

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


CONFIRMED, NOT_CONFIRMED, NOT_TESTABLE, OPEN = "confirmed", "not confirmed", "not testable at this scale", "open"


@dataclass(frozen=True)
class Found:
    """The numbers of one experiment's finished cells."""

    experiment: Experiment
    values: dict[str, dict[str, dict[int, float]]]
    """Variant → measure → seed → value."""
    finished: dict[str, list[int]]
    """Variant → seeds whose cell is finished."""
    results: dict[str, dict[int, Result]]
    """Variant → seed → what its cell's file says."""
    seeds: list[int]
    """All seeds that were asked for."""

    def seeds_of(self, variant: str, measure: str) -> dict[int, float]:
        """Return the values of a variant by seed."""
        return self.values[variant].get(measure, {})

    def effect(self, variant: str, against: str, measure: str, better: str) -> Effect | None:
        """Compare two variants on the seeds that both have; none where there are none."""
        ours, theirs = self.seeds_of(variant, measure), self.seeds_of(against, measure)
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            return None
        pairs = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
        return compare(*pairs, is_ratio=better == "lower")


def gather(experiment: Experiment, cells: Sequence[Cell], results: Mapping[str, Result]) -> Found:
    """Collect the numbers of an experiment; those of cells that lack a task count as far as they go."""
    values: dict[str, dict[str, dict[int, float]]] = {name: {} for name in experiment.variants}
    finished: dict[str, list[int]] = {name: [] for name in experiment.variants}
    found: dict[str, dict[int, Result]] = {name: {} for name in experiment.variants}
    seeds = set()
    for cell in cells:
        for name, variant in dict.fromkeys(cell.users):
            if name != experiment.name:
                continue
            seeds.add(cell.seed)
            result = results.get(cell.key)
            if result is None:
                continue
            finished[variant].append(cell.seed)
            found[variant][cell.seed] = result
            for key, value in result.measures.items():
                values[variant].setdefault(key, {})[cell.seed] = value
    return Found(experiment, values, finished, found, sorted(seeds))


@dataclass(frozen=True)
class Verdict:
    """What the numbers say of a claim."""

    claim: Claim
    status: str
    numbers: str
    """Effect with interval, and what it was held against."""


def judge(claim: Claim, found: Found, measures: Mapping[str, Measure]) -> Verdict:
    """Hold a claim against the numbers."""
    measure = measures[claim.measure]
    effect = found.effect(claim.variant, claim.against, claim.measure, measure.better)
    if effect is None or effect.num_seeds < len(found.seeds) or effect.num_seeds < 2:
        count = 0 if effect is None else effect.num_seeds
        have = "" if effect is None else f"; so far {effect.text(measure.digits)}"
        return Verdict(claim, OPEN, f"{count} of {len(found.seeds)} seeds finished{have}")
    numbers = (
        f"{effect.text(measure.digits)}, p = {effect.p:.2g}, better with {effect.num_better} of {effect.num_seeds}"
    )
    if claim.testable_if and (reason := _untestable(claim.testable_if, found)):
        return Verdict(claim, NOT_TESTABLE, f"{reason}; {numbers}")
    return Verdict(claim, CONFIRMED if _holds(claim, effect) else NOT_CONFIRMED, numbers + _remark(claim, effect))


def _holds(claim: Claim, effect: Effect) -> bool:
    if claim.no_worse_than is not None:
        return effect.high is not None and effect.high <= claim.no_worse_than
    if claim.at_most is not None:
        return effect.mean <= claim.at_most
    if claim.at_least is not None:
        return effect.mean >= claim.at_least
    return effect.is_better is True


def _remark(claim: Claim, effect: Effect) -> str:
    if effect.is_better is False and claim.no_worse_than is None:
        return "; the opposite is significant"
    return ""


def _untestable(condition: str, found: Found) -> str | None:
    """Return why a claim can't be tested; none where it can."""
    parts = CONDITION.fullmatch(condition)
    assert parts is not None  # checked when it was read
    values = found.seeds_of(parts["variant"], parts["measure"])
    if not values:
        return f"{parts['variant']} has no {parts['measure']}"
    value, number = mean(values.values()), float(parts["number"])
    holds = value > number if parts["sign"] == ">" else value < number
    return (
        None if holds else f"{parts['variant']}'s {parts['measure']} is {value:.3g}, needed {parts['sign']} {number:g}"
    )
