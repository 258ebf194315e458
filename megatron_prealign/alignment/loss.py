"""The alignment loss of a forward pass over items: computed at each tap, attached there, and counted.

A loss is attached the way megatron-core attaches the auxiliary losses of mixture-of-experts layers: the tensor passes
through unchanged, and the backward pass adds the gradient of the loss to the tensor's. This works on every pipeline
stage and under activation recomputation.

Shapes: S positions, R rows of packed items, I_r items of this data-parallel rank, H hidden.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core.utils import make_viewless_tensor
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_prealign.alignment.contrastive import contrastive_loss
from megatron_prealign.alignment.taps import ItemMicrobatch, Taps
from megatron_prealign.config.alignment import tap_names
from megatron_prealign.platform import Mesh


class AlignmentLoss:
    """Attaches the contrastive loss of each tap to the hidden states it was computed from."""

    def __init__(self, taps: Taps, weights: Sequence[float], temperature: float, memory_bytes: int) -> None:
        """Take a weight for each tap; a tap of weight 0 has no loss."""
        self._taps = taps
        self._weights = weights
        self._temperature = temperature
        self._memory_bytes = memory_bytes
        self._mesh = Mesh.current()
        self._scale = torch.zeros(())
        # Sums of the steps before, and of the last one.
        self._losses, self._step_losses = torch.zeros(2, len(weights), device=taps.device, dtype=torch.float64)
        self._num_microbatches = self._num_step_microbatches = 0

    @contextlib.contextmanager
    def attached(self, items: ItemMicrobatch, scale: Tensor) -> Iterator[None]:
        """Attach every tap's loss, times `scale` and the tap's weight, to a forward pass inside the context."""
        self._scale = scale
        with self._taps.watched(items, self._attach):
            yield

    def _attach(self, tap: int, hidden: Tensor, vectors: Tensor, items: ItemMicrobatch) -> Tensor:
        if self._weights[tap] == 0:
            return hidden
        assert items.targets is not None, "a loss needs targets"
        gather = partial(gather_ranks, group=self._mesh.data.group)
        loss = contrastive_loss(
            vectors, items.targets, self._temperature, memory_bytes=self._memory_bytes, gather=gather
        )
        self._step_losses[tap] += loss.detach()
        # Data parallelism averages gradients over ranks, while the loss is a sum over them.
        return attach_loss(hidden, loss, (self._scale * self._weights[tap] * self._mesh.data.size).to(loss))

    def begin_step(self, num_microbatches: int = 0) -> None:
        """Add the last step to the sums, and begin another one of `num_microbatches` with items."""
        self._losses += self._step_losses
        self._num_microbatches += self._num_step_microbatches
        self._step_losses.zero_()
        self._num_step_microbatches = num_microbatches

    def drop_step(self) -> None:
        """Forget the losses of the last step."""
        self._step_losses.zero_()
        self._num_step_microbatches = 0

    def step_loss(self) -> Tensor:
        """Return the sum of this rank's losses in the last step: float64 scalar."""
        total: Tensor = self._step_losses.sum()
        return total

    def step_problems(self) -> list[str]:
        """Return at which taps of this rank the last step's losses are not finite."""
        names = tap_names(self._taps.num_layers, tied=self._taps.tied)
        wrong = [names[tap] for tap in (~self._step_losses.isfinite()).nonzero()[:, 0].tolist()]
        if not wrong:
            return []
        return [
            f"the alignment loss is not finite at the taps {', '.join(wrong)}: from {wrong[0]} on, hidden states "
            "overflowed or are NaN; check the weights that the run started from"
        ]

    def take_losses(self) -> dict[str, float]:
        """Return the loss of each tap with a weight, by name, averaged over microbatches since the last call.

        Empty if there were none. Collective over the data-parallel and pipeline groups.
        """
        self.begin_step()
        losses = self._losses / max(self._num_microbatches, 1)
        torch.distributed.all_reduce(losses, group=self._mesh.data.group)
        torch.distributed.all_reduce(losses, group=self._mesh.pipeline.group)
        self._losses.zero_()
        used, self._num_microbatches = self._num_microbatches, 0
        names = tap_names(self._taps.num_layers, tied=self._taps.tied)
        named = zip(names, losses.tolist(), self._weights, strict=True)
        return {name: loss for name, loss, weight in named if weight > 0 and used > 0}

    def mean(self, losses: dict[str, float]) -> float:
        """Return the weighted mean over taps of losses by name."""
        names = tap_names(self._taps.num_layers, tied=self._taps.tied)
        return sum(losses[name] * weight for name, weight in zip(names, self._weights, strict=True) if weight > 0)


@torch.no_grad()
def gather_ranks(tensor: Tensor, group: ProcessGroup) -> Tensor:
    """Join [n, ...] of each rank to [n * ranks, ...], in rank order, without gradient."""
    if group.size() == 1:
        return tensor
    joined = tensor.new_empty((tensor.shape[0] * group.size(), *tensor.shape[1:]))
    torch.distributed.all_gather_into_tensor(joined, tensor.contiguous(), group=group)
    return joined


class _AttachLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, loss: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return tensor

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (scale,) = ctx.saved_tensors
        return grad_outputs[0], scale, None


def attach_loss(tensor: Tensor, loss: Tensor, scale: Tensor) -> Tensor:
    """Return `tensor` with the gradient of scale * loss added in its backward pass.

    Args:
        tensor: any shape, part of the graph.
        loss: scalar.
        scale: scalar of the loss's type, without gradient.
    """
    attached = _AttachLoss.apply(tensor, loss, scale)  # type: ignore[no-untyped-call]
    # A pipeline stage frees outputs after sending them, and refuses views.
    viewless: Tensor = make_viewless_tensor(inp=attached, requires_grad=True, keep_graph=True)
    return viewless
