"""Words packed into rows of equal length, so that hardly a computed position is padding.

Legend: ``W`` words, ``R`` rows, ``S`` positions of a row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackedWords:
    """Words one behind the other in rows; attention must not look from one into another."""

    token_ids: Ints
    """int64 [R, S], 0 where no word stands"""
    word_index: Ints
    """int64 [R, S], which word a position belongs to, -1 where none"""
    position_ids: Ints
    """int64 [R, S], position within the word"""

    def padded(self, num_rows: int) -> "PackedWords":
        """Return the same with empty rows behind, `num_rows` in all."""
        rows = ((0, num_rows - len(self.token_ids)), (0, 0))
        return PackedWords(
            np.pad(self.token_ids, rows),
            np.pad(self.word_index, rows, constant_values=-1),
            np.pad(self.position_ids, rows),
        )


def place_words(lengths: Ints, row_length: int) -> tuple[Ints, Ints, int]:
    """Choose row and first column of each word; the longest word that fits comes first.

    Words of a length are alike, so a filling is found once and repeated as often as the words suffice: the
    cost grows with the number of lengths, not of words.

    Args:
        lengths: int64 [W], each from 1 to `row_length`.
        row_length: positions of a row.

    Returns:
        Row and first column of each word, both int64 [W], and the number of rows.
    """
    order = np.argsort(-lengths, kind="stable")
    left = np.bincount(lengths, minlength=1)
    # Words of a length stand together in `order`; the next unplaced one of each length.
    following = len(lengths) - np.cumsum(left)
    rows, columns = np.empty_like(lengths), np.empty_like(lengths)
    num_rows = 0
    while left.any():
        filling = _fill_row(left, row_length)
        repeats = min(int(left[length]) // count for length, count in filling)
        column = 0
        for length, count in filling:
            chosen = order[following[length] : following[length] + repeats * count]
            rows[chosen] = num_rows + np.repeat(np.arange(repeats), count)
            columns[chosen] = column + np.tile(np.arange(count) * length, repeats)
            column += count * length
            following[length] += repeats * count
            left[length] -= repeats * count
        num_rows += repeats
    return rows, columns, num_rows


def _fill_row(left: Ints, row_length: int) -> list[tuple[int, int]]:
    """Fill one row, longest words first: (length, how many) of the words in it."""
    filling, room = [], row_length
    for length in np.flatnonzero(left)[::-1].tolist():
        count = min(int(left[length]), room // length)
        if count:
            filling.append((length, count))
            room -= count * length
    return filling


def pack_words(lengths: Ints, token_ids: Ints, row_length: int) -> PackedWords:
    """Pack words into as few rows as longest-first finds.

    Args:
        lengths: int64 [W], each from 1 to `row_length`.
        token_ids: int64, the tokens of all words, one word behind the other.
        row_length: positions of a row.
    """
    rows, columns, num_rows = place_words(lengths, row_length)
    within = np.arange(len(token_ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    where = np.repeat(rows, lengths), np.repeat(columns, lengths) + within
    packed = PackedWords(
        token_ids=np.zeros((num_rows, row_length), dtype=np.int64),
        word_index=np.full((num_rows, row_length), -1, dtype=np.int64),
        position_ids=np.zeros((num_rows, row_length), dtype=np.int64),
    )
    packed.token_ids[where] = token_ids
    packed.word_index[where] = np.repeat(np.arange(len(lengths)), lengths)
    packed.position_ids[where] = within
    return packed
