"""The label rule of input-only code-switching (PreAlign sec. 3.2): from tokens and switch records to labels.

A switch record is four integers: (start, length, label, lexicon entry). The tokens `start .. start+length-1` of its
sequence replace a word, and `label` is the first subword of the original word.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

IGNORE = -100
"""Label of a position without a prediction."""

RECORD_INTS = 4
"""Integers of a switch record."""

LabelMode = Literal["input-only", "vanilla", "no-predict"]
"""What a switched position predicts: the original word, the switched text, or nothing."""


def original_word_positions(records: NDArray[Any], num_tokens: int, offset: int = 0) -> NDArray[np.int64]:
    """Return the positions whose label, input-only, is the first subword of a switch's original word: int64 [n].

    Args:
        records: int [N, 4], relative to the whole sequence.
        num_tokens: length of the slice of the sequence.
        offset: first token of the slice.
    """
    starts = records[:, 0].astype(np.int64) - offset
    return starts[(starts >= 0) & (starts < num_tokens)]


def apply_switch_records(
    tokens: NDArray[Any], records: NDArray[Any], mode: LabelMode, offset: int = 0
) -> NDArray[np.int64]:
    """Return the unshifted labels, int64 [T]: element j is what position j - 1 must predict.

    They equal the tokens except in a switched word: its first position holds the original word's first subword, the
    others IGNORE. Slicing `tokens[:-1]`, `labels[1:]` and packing across documents work on them unchanged.

    Args:
        tokens: int [T], a slice of a sequence.
        records: int [N, 4], sorted by start and not overlapping, relative to the whole sequence; those outside the
            slice are skipped, those that cross its ends are clipped.
        mode: "input-only" as above; "vanilla" returns the tokens; "no-predict" ignores the first position too.
        offset: first token of the slice.
    """
    labels = tokens.astype(np.int64)
    if mode == "vanilla" or not len(records):
        return labels
    starts = records[:, 0].astype(np.int64) - offset
    stops = starts + records[:, 1]
    touched = slice(np.searchsorted(stops, 0, side="right"), np.searchsorted(starts, len(tokens), side="left"))
    starts, stops = starts[touched], stops[touched]
    # +1 where a switched word begins and -1 after its end: the running sum is 1 inside.
    edges = np.zeros(len(tokens) + 1, dtype=np.int64)
    np.add.at(edges, np.maximum(starts, 0), 1)
    np.add.at(edges, np.minimum(stops, len(tokens)), -1)
    labels[np.cumsum(edges[:-1]) > 0] = IGNORE
    if mode == "input-only":
        begins_inside = starts >= 0
        labels[starts[begins_inside]] = records[touched, 2][begins_inside]
    return labels
