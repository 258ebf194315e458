"""What a configuration must fulfil: the range of a number, and how a contradiction is reported."""

import math
import re
from dataclasses import dataclass

_OPTION = re.compile(r"--([a-z]+\.[a-z0-9_]+)")


@dataclass(frozen=True)
class Range:
    """Numbers that a field takes, as metadata of `Annotated`; str() words them. `None` needs no range."""

    low: float
    high: float = math.inf
    above: bool = False
    """`low` itself is outside."""
    below: bool = False
    """`high` itself is outside."""
    note: str = ""
    """Follows the range in messages."""

    def __contains__(self, value: float) -> bool:
        """Tell whether a value is inside; NaN never is."""
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        """Word the range as it follows "must be"."""
        if self.high == math.inf:
            return f"{'above' if self.above else 'at least'} {self.low}{self.note}"
        return f"in {'(' if self.above else '['}{self.low}, {self.high}{')' if self.below else ']'}{self.note}"


AT_LEAST_0 = Range(0)
AT_LEAST_1 = Range(1)
ABOVE_0 = Range(0, above=True)
BELOW_1 = Range(0, 1, below=True)
SEED = Range(0, 2**32 - 1)
"""What every random generator takes."""
LOSS_WEIGHT = Range(0, 1_000_000)


@dataclass(frozen=True)
class Problem:
    """A contradiction, worded with its fix."""

    message: str
    """Names the options concerned as --section.field."""
    also: tuple[str, ...] = ()
    """Fields that it follows from and that the message does not name."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the "section.field" names that it follows from."""
        return tuple(dict.fromkeys([*_OPTION.findall(self.message), *self.also]))
