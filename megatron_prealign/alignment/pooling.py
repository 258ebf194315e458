"""Item vectors from hidden states of packed items.

Shapes: S positions (of this rank under sequence parallelism), R rows, W items of this rank, H hidden.
"""

import torch
from torch import Tensor


def sum_pool(hidden: Tensor, item_index: Tensor, num_items: int) -> Tensor:
    """Sum the hidden states of each item's own subwords, in fp32.

    Args:
        hidden: [S, R, H], any floating type; fp64 stays fp64.
        item_index: int64 [R, S], the item of each position, -1 = none.
        num_items: W.

    Returns:
        fp32 [W, H]; zero for items without subwords here.
    """
    precise = hidden if hidden.dtype == torch.float64 else hidden.float()
    flat = precise.transpose(0, 1).reshape(-1, hidden.shape[-1])
    # Positions without an item are summed in one more row after the items.
    index = torch.where(item_index < 0, num_items, item_index).reshape(-1)
    return _add_rows(flat.new_zeros(num_items + 1, flat.shape[1]), index, flat)[:num_items]


def num_subwords(item_index: Tensor, num_items: int) -> Tensor:
    """Return each item's number of subwords from item_index int64 [R, S]: fp32 [W, 1], at least 1 for padding."""
    index = torch.where(item_index < 0, num_items, item_index).reshape(-1)
    ones = torch.ones_like(index, dtype=torch.float32)
    return _add_rows(ones.new_zeros(num_items + 1), index, ones)[:num_items, None].clamp(min=1)


def _add_rows(sums: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """Add rows to sums in a fixed order, so that tensor-parallel ranks get the same bits."""
    # On each device one of the two adds in order and the other uses atomics.
    return sums.index_put((index,), rows, accumulate=True) if rows.is_cuda else sums.index_add(0, index, rows)


def mean_pool(hidden: Tensor, item_index: Tensor, num_items: int) -> Tensor:
    """Average the hidden states of each item's own subwords, in fp32 (PreAlign sec. 3.1).

    Args:
        hidden: [S, R, H], any floating type.
        item_index: int64 [R, S], the item of each position, -1 = none.
        num_items: W.

    Returns:
        fp32 [W, H]; zero for items without subwords (padding).
    """
    return sum_pool(hidden, item_index, num_items) / num_subwords(item_index, num_items)
