"""Cheap containers for millions of words: rows of different lengths in flat arrays, the cycle collector paused."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one array."""

    values: NDArray[Any]
    """All rows back to back."""
    offsets: NDArray[np.int64]
    """Where each row begins and ends: [rows + 1]."""

    @classmethod
    def of(cls, values: NDArray[Any], lengths: NDArray[np.int64]) -> Self:
        """Take all rows back to back and the length of each."""
        return cls(values, np.concatenate(([0], np.cumsum(lengths))))

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[int]]) -> Self:
        """Copy rows of integers to one int32 array."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls.of(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the length of some rows."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the values of some rows back to back, and the length of each."""
        lengths = self.lengths_of(rows)
        return self.values[spread(self.offsets[rows], lengths)], lengths

    def joined(self, other: Self) -> Self:
        """Return these rows and those of another behind them."""
        values = np.concatenate((self.values, other.values))
        return type(self).of(values, np.concatenate((self.lengths, other.lengths)))

    def cut(self, max_length: int) -> Self:
        """Return the first `max_length` values of each row."""
        lengths = np.minimum(self.lengths, max_length)
        return type(self).of(self.values[spread(self.offsets[:-1], lengths)], lengths)


def same_spans(
    left: NDArray[Any],
    left_starts: NDArray[np.int64],
    right: NDArray[Any],
    right_starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Return whether each pair of spans holds the same values: bool [N]."""
    same = np.ones(len(lengths), dtype=bool)
    position = 0
    while len(active := np.flatnonzero(same & (lengths > position))):
        same[active] = left[left_starts[active] + position] == right[right_starts[active] + position]
        position += 1
    return same


def spread(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the integers of all ranges `start .. start + length - 1`, one range after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    values: NDArray[np.int64] = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return values


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause Python's cycle collector, for code that makes no cycles. Also a decorator.

    The collector takes a third of the time of code that makes millions of small, long-lived objects.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
