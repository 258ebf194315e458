"""The language-modelling pass: ordinary next-token prediction over whole sequences.

Shapes: B sequences of a microbatch, S tokens a sequence.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from megatron_prealign.dataset.sampler import Batch
from megatron_prealign.model import number_documents, segment_mask
from megatron_prealign.platform import Mesh
from megatron_prealign.training.loss_sums import describe_losses, grouped_sums, masked_sum
from megatron_prealign.training.stage import Pass, sum_over_ranks


class LanguageModelling:
    """Makes passes of batches, and averages their loss.

    The loss is the sum over predicted positions over their number in the global batch, so that it
    and its gradients do not depend on how the batch is split.
    """

    def __init__(
        self,
        device: torch.device,
        languages: Sequence[str],
        weight: float = 1.0,
        *,
        end_of_document: int | None = None,
    ) -> None:
        """Prepare for passes.

        Args:
            device: where they run.
            languages: of the data, in its order; the loss of each is reported.
            weight: of the loss, beside others of the same step.
            end_of_document: token that attention does not cross; none = it sees whole sequences.
        """
        self._device = device
        self._languages = languages
        self._weight = weight
        self._end_of_document = end_of_document
        # Double: a float no longer counts every position from 16 million on.
        self._sums = torch.zeros(len(languages), 2, 2, dtype=torch.float64, device=device)
        self._step_sums = torch.zeros_like(self._sums)

    def make_pass(self, batches: list[Batch]) -> Pass:
        """Return the pass over one step's microbatches; collective over data-parallel ranks."""
        self._begin_step()
        moved = [{key: value.to(self._device, non_blocking=True) for key, value in batch.items()} for batch in batches]
        micro_batch_size, seq_length = moved[0]["tokens"].shape
        # Under context parallelism each rank goes on with its two pieces of every sequence.
        mesh = Mesh.current()
        moved = [_pieces_of_this_rank(batch, mesh) for batch in moved]
        num_predicted = torch.stack([batch["loss_mask"].sum() for batch in moved]).sum()
        torch.distributed.all_reduce(num_predicted, group=mesh.replicas.group)
        # Undo what follows: the schedule divides by microbatches and multiplies by context-parallel ranks, gradient
        # reduction divides by context- and data-parallel ranks.
        scale = self._weight * len(moved) * mesh.data.size / num_predicted.clamp(min=1)
        return Pass(partial(self._forward_step, scale), moved, seq_length, micro_batch_size)

    def _forward_step(
        self, scale: Tensor, batches: Iterator[Batch], chunk: torch.nn.Module
    ) -> tuple[Tensor, "partial[tuple[Tensor, dict[str, Tensor]]]"]:
        batch = next(batches)
        attention_mask = None
        if self._end_of_document is not None:
            attention_mask = segment_mask(number_documents(batch["tokens"], self._end_of_document))
        output = chunk(batch["tokens"], batch["position_ids"], attention_mask, labels=batch["labels"])
        return output, partial(self._loss, batch, scale)

    def _loss(self, batch: Batch, scale: Tensor, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        mask, group = batch["loss_mask"], batch["loss_group"]
        self._step_sums += grouped_sums(losses.detach(), mask, group, len(self._languages))
        return masked_sum(losses, mask) * scale, {}

    def _begin_step(self) -> None:
        self._sums += self._step_sums
        self._step_sums.zero_()

    def step_losses(self) -> Tensor:
        """Return the sum of this rank's losses in the last step, and their number: float64 [2]."""
        return self._step_sums.sum(dim=(0, 1))

    def drop_step(self) -> None:
        """Forget the losses of the last step."""
        self._step_sums.zero_()

    def take_losses(self) -> dict[str, Any]:
        """Return the mean losses per predicted position since the last call, in nats; collective.

        Named as `describe_losses` does.
        """
        self._begin_step()
        sums = sum_over_ranks(self._sums)
        self._sums.zero_()
        return describe_losses(sums, self._languages)


def _pieces_of_this_rank(batch: Batch, mesh: Mesh) -> Batch:
    """Return a microbatch with what has an axis of positions cut to this context-parallel rank's two pieces."""
    by_position = {key: value for key, value in batch.items() if value.dim() > 1}
    return {**batch, **mesh.own_pieces(by_position)}
