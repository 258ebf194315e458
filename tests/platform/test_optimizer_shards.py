"""Flat ranges of arrays as boxes, against the array itself."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatron_prealign.platform.megatron.optimizer_shards import cut_into_boxes


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.data())
def test_boxes_are_the_range_in_order(shape: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, math.prod(shape)))
    stop = data.draw(st.integers(start, math.prod(shape)))
    numbers = np.arange(math.prod(shape)).reshape(shape)
    boxes = [*cut_into_boxes(shape, start, stop)]
    found = [
        numbers[tuple(slice(offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))].ravel()
        for offsets, sizes in boxes
    ]
    assert np.concatenate([*found, np.array([], int)]).tolist() == [*range(start, stop)]
    assert all(len(part) for part in found)
    # A row that is cut in front, whole rows, a row that is cut behind: once an axis.
    assert len(boxes) <= 2 * len(shape) - 1
