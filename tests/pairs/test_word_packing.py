"""Packed words: every word whole, once, and hardly a position empty."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_prealign.pairs.batches import pack_items, place_items


@given(st.lists(st.integers(1, 16), max_size=60), st.integers(16, 40))
def test_every_word_stands_whole_in_one_row(lengths: list[int], row_length: int) -> None:
    token_ids = np.arange(1, sum(lengths) + 1)
    packed = pack_items(np.array(lengths, dtype=np.int64), token_ids, row_length)
    ends = np.cumsum(lengths, dtype=np.int64)
    for word, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        rows, columns = np.nonzero(packed.item_index == word)
        assert len(set(rows)) == 1
        assert columns.tolist() == list(range(columns[0], columns[0] + length))
        assert packed.token_ids[rows, columns].tolist() == token_ids[end - length : end].tolist()
        assert packed.position_ids[rows, columns].tolist() == list(range(length))
    assert (packed.item_index >= 0).sum() == sum(lengths)
    assert not packed.token_ids[packed.item_index < 0].any()


@given(st.lists(st.integers(1, 16), min_size=1, max_size=60), st.integers(16, 40))
def test_rows_are_those_of_first_fit_decreasing(lengths: list[int], row_length: int) -> None:
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        row = next((row for row, room in enumerate(rooms) if room >= length), len(rooms))
        if row == len(rooms):
            rooms.append(row_length)
        rooms[row] -= length
    assert place_items(np.array(lengths), row_length)[2] == len(rooms)


@pytest.mark.parametrize("mean_length", [1.5, 2.5, 5.0])
def test_padding_is_below_a_tenth(mean_length: float) -> None:
    lengths = np.random.default_rng(0).geometric(1 / mean_length, size=512).clip(max=16)
    _, _, num_rows = place_items(lengths, 64)
    assert lengths.sum() >= 0.9 * num_rows * 64


def test_empty_rows_are_added_behind() -> None:
    packed = pack_items(np.array([2, 1]), np.array([7, 8, 9]), 4).padded(3)
    assert packed.token_ids.tolist() == [[7, 8, 9, 0], [0] * 4, [0] * 4]
    assert packed.item_index.tolist() == [[0, 0, 1, -1], [-1] * 4, [-1] * 4]
