"""Cross entropy over logits that are split by vocabulary, in the memory of the logits.

megatron-core's unfused form copies bf16 logits to fp32 and keeps the softmax for the backward pass. This one keeps the
logits alone, which the output layer has made anyway: both passes compute in fp32 on a few tokens at a time, and the
backward pass writes the gradient over the logits.

Shapes: S sequence, B batch, V rows of the vocabulary on this tensor-parallel rank, padding included.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp

# Numbers in fp32 at a time: what a CPU's cache holds, and enough to fill a GPU.
_BLOCK_ON_CPU, _BLOCK_ON_GPU = 1 << 20, 1 << 26
# torch adds up a single long row in another order than several.
_LEAST_ROWS = 16


def vocab_parallel_cross_entropy(
    logits: Tensor, labels: Tensor, num_tokens: int, group: ProcessGroup, z_loss_weight: float = 0.0
) -> Tensor:
    """Return the cross entropy of each position, fp32 [S, B]; the logits are overwritten in the backward pass.

    Args:
        logits: [S, B, V], contiguous.
        labels: int64 [S, B], ids of the whole vocabulary.
        num_tokens: size of the whole vocabulary before padding; padded rows take no part.
        group: tensor-parallel ranks, whose rows of the vocabulary follow each other.
        z_loss_weight: w of the z-loss w * log(Z)^2 (PaLM, sec. 5). Its gradient is added to that of each position's
            loss; the returned losses do not include it.
    """
    num_real = min(max(num_tokens - group.rank() * logits.shape[-1], 0), logits.shape[-1])
    losses: Tensor = _CrossEntropy.apply(logits, labels, num_real, group, z_loss_weight)  # type: ignore[no-untyped-call]
    return losses


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, num_real: int, group: ProcessGroup, z_loss_weight: float
    ) -> Tensor:
        rows = logits.view(-1, logits.shape[-1])
        own_labels = labels.reshape(-1) - group.rank() * rows.shape[1]
        is_here = (own_labels >= 0) & (own_labels < rows.shape[1])
        own_labels = own_labels.where(is_here, 0)
        largest = rows.new_full((len(rows),), torch.finfo(rows.dtype).min)
        if num_real:
            largest = rows[:, :num_real].amax(dim=-1)
        largest = largest.float()
        torch.distributed.all_reduce(largest, ReduceOp.MAX, group=group)
        # Of each position: its label's logit, and the sum over the vocabulary.
        label_logits, sums = torch.empty_like(largest), torch.empty_like(largest)
        for block in _blocks(rows):
            shifted = _shifted(rows[block], largest[block], num_real)
            label_logits[block] = shifted.gather(1, own_labels[block, None])[:, 0]
            sums[block] = shifted.exp_().sum(dim=-1)
        label_logits.masked_fill_(~is_here, 0.0)
        torch.distributed.all_reduce(label_logits, group=group)
        torch.distributed.all_reduce(sums, group=group)
        ctx.save_for_backward(logits, own_labels, is_here, largest, sums)
        ctx.num_real, ctx.z_loss_weight = num_real, z_loss_weight
        return (sums.log() - label_logits).view(labels.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, own_labels, is_here, largest, sums = ctx.saved_tensors
        rows, factors = logits.view(-1, logits.shape[-1]), grad_outputs[0].reshape(-1, 1)
        for block in _blocks(rows):
            gradient = _shifted(rows[block], largest[block], ctx.num_real).exp_().div_(sums[block, None])
            if ctx.z_loss_weight:
                gradient *= 1 + 2 * ctx.z_loss_weight * (sums[block].log() + largest[block])[:, None]
            gradient.scatter_add_(1, own_labels[block, None], -is_here[block, None].to(gradient.dtype))
            rows[block] = gradient.mul_(factors[block])
        return logits, None, None, None, None


def _shifted(rows: Tensor, largest: Tensor, num_real: int) -> Tensor:
    """Return logits less the largest of their position, in its type; minus infinity for padding."""
    shifted = rows.to(largest.dtype) - largest[:, None]
    shifted[:, num_real:] = -torch.inf
    return shifted


def _blocks(rows: Tensor) -> Iterator[slice]:
    """Yield ranges of rows of about the same size."""
    numbers = _BLOCK_ON_CPU if rows.device.type == "cpu" else _BLOCK_ON_GPU
    num_blocks = max(1, min(rows.numel() // numbers, len(rows) // _LEAST_ROWS))
    bounds = [len(rows) * index // num_blocks for index in range(num_blocks + 1)]
    yield from map(slice, bounds, bounds[1:])
