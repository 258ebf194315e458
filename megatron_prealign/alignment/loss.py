"""The alignment loss of a forward pass over words: computed at each tap, attached there, and counted.

Shapes: S positions, R rows of packed words, W_r words of this data-parallel rank, H hidden.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_prealign.alignment.contrastive import contrastive_loss
from megatron_prealign.alignment.gather import gather_ranks
from megatron_prealign.alignment.injection import attach_loss
from megatron_prealign.alignment.taps import Taps, WordMicrobatch
from megatron_prealign.config.taps import tap_names
from megatron_prealign.errors import TrainingError


class AlignmentLoss:
    """Attaches the contrastive loss of each tap to the hidden states it was computed from."""

    def __init__(self, taps: Taps, weights: Sequence[float], temperature: float, memory_bytes: int) -> None:
        """Weight each tap's loss with its own weight; a tap of weight 0 is left alone."""
        self._taps = taps
        self._weights = weights
        self._temperature = temperature
        self._memory_bytes = memory_bytes
        self._scale = torch.zeros(())
        self._losses = torch.zeros(len(weights), device=taps.device, dtype=torch.float64)
        self._num_microbatches = 0

    @contextlib.contextmanager
    def attached(self, words: WordMicrobatch, scale: Tensor) -> Iterator[None]:
        """Attach every tap's loss, times `scale` and the tap's weight, to a forward pass inside the context.

        Raises:
            TrainingError: a tap's loss is no finite number.
        """
        self._scale = scale
        with self._taps.watched(words, self._attach):
            yield
        self._check_finite()

    def _attach(self, tap: int, hidden: Tensor, vectors: Tensor, words: WordMicrobatch) -> Tensor:
        if self._weights[tap] == 0:
            return hidden
        assert words.targets is not None, "a loss needs targets"
        group = parallel_state.get_data_parallel_group()
        gather = partial(gather_ranks, group=group)
        loss = contrastive_loss(
            vectors, words.targets, self._temperature, memory_bytes=self._memory_bytes, gather=gather
        )
        self._losses[tap] += loss.detach()
        # Data parallelism averages gradients over ranks, while the loss is a sum over them.
        return attach_loss(hidden, loss, (self._scale * self._weights[tap] * group.size()).to(loss))

    def _check_finite(self) -> None:
        if not self._losses.isfinite().all():
            names = tap_names(self._taps.num_layers, tied=self._taps.tied)
            wrong = [names[tap] for tap in (~self._losses.isfinite()).nonzero()[:, 0].tolist()]
            raise TrainingError(
                f"the alignment loss is not finite at the taps {', '.join(wrong)}: from {wrong[0]} on, hidden states "
                "overflowed or are NaN; lower optimizer.lr, or look for damaged weights where the run started from"
            )

    def count_microbatches(self, count: int) -> None:
        """Note that the losses of `count` more microbatches are added up."""
        self._num_microbatches += count

    def take_losses(self) -> dict[str, float]:
        """Return by name the loss of each tap in use, averaged over microbatches since the last call.

        Empty where there were none. Collective over the data-parallel and pipeline groups.
        """
        losses = self._losses / max(self._num_microbatches, 1)
        torch.distributed.all_reduce(losses, group=parallel_state.get_data_parallel_group())
        torch.distributed.all_reduce(losses, group=parallel_state.get_pipeline_model_parallel_group())
        self._losses.zero_()
        used, self._num_microbatches = self._num_microbatches, 0
        names = tap_names(self._taps.num_layers, tied=self._taps.tied)
        named = zip(names, losses.tolist(), self._weights, strict=True)
        return {name: loss for name, loss, weight in named if weight > 0 and used > 0}

    def mean(self, losses: dict[str, float]) -> float:
        """Return the weighted mean over taps of losses by name."""
        names = tap_names(self._taps.num_layers, tied=self._taps.tied)
        return sum(losses[name] * weight for name, weight in zip(names, self._weights, strict=True) if weight > 0)
