"""Word vectors from hidden states.

Shapes: S positions (of this rank under sequence parallelism), W words, H hidden.
"""

import torch
from torch import Tensor


def sum_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Sum the hidden states of each word's own subwords, in fp32.

    Args:
        hidden: [S, W, H], any floating type.
        mask: bool [W, S], true where a position is a subword of the word.

    Returns:
        fp32 [W, H].
    """
    return torch.einsum("swh,ws->wh", hidden.float(), mask.float())


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the hidden states of each word's own subwords, in fp32 (PreAlign sec. 3.1).

    Args:
        hidden: [S, W, H], any floating type.
        mask: bool [W, S], true where a position is a subword of the word.

    Returns:
        fp32 [W, H]; zero for words without subwords (padding).
    """
    return sum_pool(hidden, mask) / num_subwords(mask)


def num_subwords(mask: Tensor) -> Tensor:
    """Count each word's subwords: mask bool [W, S] to fp32 [W, 1], at least 1 so that padding divides."""
    return mask.sum(dim=1, keepdim=True).clamp(min=1).float()
