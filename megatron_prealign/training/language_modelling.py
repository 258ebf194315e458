"""The language-modelling pass: ordinary next-token prediction over whole sequences.

Shapes: B sequences of a microbatch, S tokens a sequence.
"""

from collections.abc import Iterator
from functools import partial

import torch
from megatron.core import parallel_state
from megatron.core.utils import get_batch_on_this_cp_rank
from torch import Tensor

from megatron_prealign.data.sampler import Batch
from megatron_prealign.training.stage import Pass, sum_over_ranks


def masked_sum(losses: Tensor, loss_mask: Tensor) -> Tensor:
    """Sum the losses [B, S] of predicted positions, in fp32: scalar."""
    return (losses.float() * loss_mask).sum()


class LanguageModelling:
    """Makes passes of batches, and averages their loss.

    The loss is the sum over predicted positions over their number in the global batch, so that it
    and its gradients do not depend on how the batch is split.
    """

    def __init__(self, device: torch.device, weight: float = 1.0) -> None:
        """Weight the loss beside others of the same step."""
        self._device = device
        self._weight = weight
        self._totals = torch.zeros(2, device=device)

    def make_pass(self, batches: list[Batch]) -> Pass:
        """Return the pass over one step's microbatches; collective over data-parallel ranks."""
        moved = [{key: value.to(self._device, non_blocking=True) for key, value in batch.items()} for batch in batches]
        micro_batch_size, seq_length = moved[0]["tokens"].shape
        # Under context parallelism each rank goes on with its two pieces of every sequence.
        moved = [get_batch_on_this_cp_rank(batch) for batch in moved]
        num_predicted = torch.stack([batch["loss_mask"].sum() for batch in moved]).sum()
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        torch.distributed.all_reduce(num_predicted, group=group)
        # Undo what follows: the schedule divides by microbatches and multiplies by context-parallel ranks, gradient
        # reduction divides by context- and data-parallel ranks.
        scale = self._weight * len(moved) * parallel_state.get_data_parallel_world_size() / num_predicted.clamp(min=1)
        return Pass(partial(self._forward_step, scale), moved, seq_length, micro_batch_size)

    def _forward_step(
        self, scale: Tensor, batches: Iterator[Batch], chunk: torch.nn.Module
    ) -> tuple[Tensor, "partial[tuple[Tensor, dict[str, Tensor]]]"]:
        batch = next(batches)
        output = chunk(batch["tokens"], batch["position_ids"], None, labels=batch["labels"])
        return output, partial(self._loss, batch["loss_mask"], scale)

    def _loss(self, loss_mask: Tensor, scale: Tensor, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total = masked_sum(losses, loss_mask)
        self._totals += torch.stack([total.detach(), loss_mask.sum()])
        return total * scale, {}

    def take_loss(self) -> float:
        """Return the mean loss per predicted position since the last call, in nats; collective."""
        total, count = sum_over_ranks(self._totals).tolist()
        self._totals.zero_()
        return float(total / max(count, 1))
