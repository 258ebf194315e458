"""Word vectors of all data-parallel ranks, with gradient.

Shapes: W words of the whole batch, H hidden, D data-parallel ranks.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup


class _GatherWords(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, words: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        output = words.new_empty((words.shape[0] * group.size(), *words.shape[1:]))
        torch.distributed.all_gather_into_tensor(output, words.contiguous(), group=group)
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        gradient = grad_outputs[0].contiguous()
        output = gradient.new_empty((gradient.shape[0] // ctx.group.size(), *gradient.shape[1:]))
        # Each rank's loss depends on every rank's words: the gradients of all losses add up.
        torch.distributed.reduce_scatter_tensor(output, gradient, group=ctx.group)
        return output, None


def gather_words(words: Tensor, group: ProcessGroup) -> Tensor:
    """Gather [W / D, H] of each rank to [W, H], in rank order; the backward pass sums over ranks."""
    if group.size() == 1:
        return words
    gathered: Tensor = _GatherWords.apply(words, group)  # type: ignore[no-untyped-call]
    return gathered
