"""Addressed randomness: every draw is a function of its place alone.

The generator is a keyed hash in counter mode. A document's key is chained from (seed, epoch, document) by
`mix(key ^ value)`; a draw is `mix(key ^ mix(3 * word index + counter))`. `mix` is the 64-bit finaliser of
SplitMix64 (Steele, Lea, Flood 2014), a bijection that flips each output bit with probability one half for each
flipped input bit. There is no state, so the draws do not depend on order, shards or restarts.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch import compiled

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Counter(IntEnum):
    """The purpose of a draw; draws for different purposes are independent."""

    SWITCH = 0
    LANGUAGE = 1
    TRANSLATION = 2


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a well-mixed bijection of 64-bit values, elementwise; the input is not changed."""
    mixed = values + np.uint64(_GOLDEN)
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(multiplier)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def document_keys(tokens: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each document's token ids: uint64 [D].

    `mix` of a multilinear hash modulo 2**64: the sum of (id + 1) times a multiplier, which is `mix(position) | 1`.

    Args:
        tokens: int [T], the documents back to back, before any switch.
        offsets: int64 [D + 1], where each begins and ends.
    """
    if compiled is not None:
        ids = np.ascontiguousarray(tokens, dtype=np.int32)
        return mix(compiled.document_sums(ids, np.ascontiguousarray(offsets, dtype=np.int64)))
    lengths = np.diff(offsets)
    longest = int(lengths.max(initial=0))
    multipliers = mix(np.arange(longest, dtype=np.uint64)) | np.uint64(1)
    positions = np.arange(len(tokens)) - np.repeat(offsets[:-1], lengths)
    terms = multipliers[positions] * (tokens.astype(np.uint64) + np.uint64(1))
    sums = np.zeros(len(lengths), dtype=np.uint64)
    filled = lengths > 0
    if filled.any():
        sums[filled] = np.add.reduceat(terms, offsets[:-1][filled])
    return mix(sums)


def stream_keys(seed: int, epoch: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the generator key of each document: uint64 [D] from `document_keys`, chained with seed and epoch."""
    base = np.zeros(1, dtype=np.uint64)
    for value in (seed, epoch):
        base = mix(base ^ np.uint64(value & _MASK))
    return mix(base ^ keys)


def draw(keys: NDArray[np.uint64], word_indices: NDArray[np.int64], counter: Counter) -> NDArray[np.float64]:
    """Return a uniform draw in [0, 1) for each word.

    Args:
        keys: uint64 [N], the generator key of each word's document.
        word_indices: int64 [N], each word's index among all words of its document.
        counter: Purpose of the draws.
    """
    addresses = word_indices.astype(np.uint64) * np.uint64(len(Counter)) + np.uint64(counter)
    bits = mix(keys ^ mix(addresses))
    # 53 bits: the precision of a double.
    uniform: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


@dataclass(frozen=True)
class WeightedChoice:
    """A weighted choice among the consecutive items of each group."""

    cumulative: NDArray[np.float64]
    """The group's number plus the cumulative share up to and including each item: [items], rising."""
    offsets: NDArray[np.int64]
    """Where the items of each group begin and end: [groups + 1]."""

    @classmethod
    def of(cls, weights: NDArray[np.float64], lengths: NDArray[np.int64]) -> Self:
        """Take the positive weights of all items, in any unit, and the number of items of each group, at least 1."""
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        starts, numbers = offsets[:-1], np.arange(len(lengths))
        sums = np.add.reduceat(weights, starts) if len(lengths) else weights
        running = np.concatenate(([0.0], np.cumsum(weights / np.repeat(sums, lengths))))
        cumulative = np.repeat(numbers - running[starts], lengths) + running[1:]
        cumulative[offsets[1:] - 1] = numbers + 1  # exact in spite of rounding
        return cls(cumulative, offsets)

    def choose(self, groups: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return an item of each group, drawn by a number in [0, 1)."""
        items = np.searchsorted(self.cumulative, groups + uniform, side="right")
        # A draw close to 1 may round up to the next group.
        return np.minimum(items, self.offsets[groups + 1] - 1)
