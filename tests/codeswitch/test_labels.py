"""The label rule on hand-written cases and against a ten-line reference on random slices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_prealign.codeswitch.labels import IGNORE, LabelMode, apply_switch_records


def reference_labels(tokens: list[int], records: list[list[int]], mode: str, offset: int) -> list[int]:
    """The rule, token by token."""
    labels = list(tokens)
    for start, length, label, _ in records:
        for position in range(start, start + length):
            if 0 <= position - offset < len(tokens) and mode != "vanilla":
                first = position == start and mode == "input-only"
                labels[position - offset] = label if first else IGNORE
    return labels


def test_the_three_modes_on_a_written_example() -> None:
    tokens = np.array([10, 11, 12, 13, 14], dtype=np.uint16)
    records = np.array([[1, 2, 77, 0], [3, 1, 88, 4]], dtype=np.int32)
    assert apply_switch_records(tokens, records, "input-only").tolist() == [10, 77, IGNORE, 88, 14]
    assert apply_switch_records(tokens, records, "no-predict").tolist() == [10, IGNORE, IGNORE, IGNORE, 14]
    assert apply_switch_records(tokens, records, "vanilla").tolist() == [10, 11, 12, 13, 14]
    assert tokens.tolist() == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("mode", ["input-only", "vanilla", "no-predict"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_slice_equals_the_reference(mode: LabelMode, data: st.DataObject) -> None:
    spans = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=8))
    records, end = [], 0
    for entry, (gap, length) in enumerate(spans):
        records.append([end + gap, length, 1000 + entry, entry])
        end += gap + length
    size = end + data.draw(st.integers(0, 3))
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    tokens = np.arange(size, dtype=np.uint16)[start:stop]
    array = np.array(records, dtype=np.int32).reshape(-1, 4)
    labels = apply_switch_records(tokens, array, mode, offset=start)
    assert labels.dtype == np.int64
    assert labels.tolist() == reference_labels(tokens.tolist(), records, mode, start)
