"""Whether claims hold: confirmed, not confirmed, not testable at this scale, or open while cells are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from experiments.cells import Cell, Result
from experiments.significance import Effect, compare
from experiments.specs import CONDITION, Claim, Experiment, Measure

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
