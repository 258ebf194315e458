"""Constraints on a configuration: ranges of numbers, and how contradictions are reported."""

import math
import re
from dataclasses import dataclass

_OPTION = re.compile(r"--([a-z]+\.[a-z0-9_]+)")


@dataclass(frozen=True)
class Range:
    """Numbers that a field accepts, as metadata of `Annotated`; `None` is always accepted."""

    low: float
    high: float = math.inf
    above: bool = False
    """Exclude `low`."""
    below: bool = False
    """Exclude `high`."""
    note: str = ""
    """Reason or exception, shown after the range in messages."""

    def __contains__(self, value: float) -> bool:
        """Return whether a value is inside; NaN never is."""
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        """Return the words for a message, to follow "must be"."""
        if self.high == math.inf:
            return f"{'above' if self.above else 'at least'} {self.low}{self.note}"
        return f"in {'(' if self.above else '['}{self.low}, {self.high}{')' if self.below else ']'}{self.note}"


AT_LEAST_0 = Range(0)
AT_LEAST_1 = Range(1)
ABOVE_0 = Range(0, above=True)
BELOW_1 = Range(0, 1, below=True)
SEED = Range(0, 2**32 - 1)
"""Seeds that every random generator accepts."""
LOSS_WEIGHT = Range(0, 1_000_000)


@dataclass(frozen=True)
class Problem:
    """A contradiction between fields."""

    message: str
    """What is wrong and the fix; names the options concerned as --section.field."""
    also: tuple[str, ...] = ()
    """Further "section.field" names that cause it and that the message does not contain."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the "section.field" names that cause it."""
        return tuple(dict.fromkeys([*_OPTION.findall(self.message), *self.also]))
