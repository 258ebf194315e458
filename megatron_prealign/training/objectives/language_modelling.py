"""Language modelling: ordinary next-token prediction over whole sequences.

Losses are summed by language, and separately at switched and ordinary positions, on the device; a record reads them.

Shapes: B sequences of a microbatch, S tokens a sequence, L languages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from megatron_prealign.dataset.sampler import Batch
from megatron_prealign.model import Segments, number_documents, segment_bounds
from megatron_prealign.platform import Mesh
from megatron_prealign.training.objectives.objective import Pass, Surroundings, sum_over_ranks
from megatron_prealign.training.objectives.sequences import SequencePlan, Sequences
from megatron_prealign.training.state import TrainState


class LanguageModelLoss:
    """Makes passes of batches, and averages their loss.

    The loss is the sum over predicted positions divided by their number in the global batch, so that it and its
    gradients do not depend on how the batch is split.
    """

    def __init__(self, device: torch.device, languages: Sequence[str], *, end_of_document: int | None = None) -> None:
        """Prepare for passes on a device.

        Args:
            device: of the model.
            languages: of the data, in its order; the loss of each is reported.
            end_of_document: token that attention does not cross; None = it sees whole sequences.
        """
        self._device = device
        self._languages = languages
        self._end_of_document = end_of_document
        # float64, because fp32 can't count above 16 million.
        self._sums = torch.zeros(len(languages), 2, 2, dtype=torch.float64, device=device)
        self._step_sums = torch.zeros_like(self._sums)
        self._num_passes = 0

    def make_pass(self, batches: list[Batch], weight: float = 1.0) -> Pass:
        """Return the pass over one step's microbatches; collective over data-parallel ranks."""
        self._keep_step()
        self._num_passes += 1
        if self._end_of_document is not None:
            batches = [{**batch, **_documents(batch["tokens"], self._end_of_document)} for batch in batches]
        moved = [{key: value.to(self._device, non_blocking=True) for key, value in batch.items()} for batch in batches]
        micro_batch_size, seq_length = moved[0]["tokens"].shape
        # Under context parallelism each rank uses its two pieces of every sequence.
        mesh = Mesh.current()
        moved = [_pieces_of_this_rank(batch, mesh) for batch in moved]
        num_predicted = torch.stack([batch["loss_mask"].sum() for batch in moved]).sum()
        torch.distributed.all_reduce(num_predicted, group=mesh.replicas.group)
        # Compensate for what follows: the schedule divides by microbatches and multiplies by context-parallel ranks;
        # the gradient reduction divides by context- and data-parallel ranks.
        scale = weight * len(moved) * mesh.data.size / num_predicted.clamp(min=1)
        return Pass(partial(self._forward_step, scale), moved, seq_length, micro_batch_size)

    def _forward_step(
        self, scale: Tensor, batches: Iterator[Batch], chunk: torch.nn.Module
    ) -> tuple[Tensor, "partial[tuple[Tensor, dict[str, Tensor]]]"]:
        batch = next(batches)
        segments = Segments(batch["documents"], batch["bounds"]) if "documents" in batch else None
        tokens, positions = batch["tokens"], batch["position_ids"]
        output = chunk(tokens, positions, None, labels=batch["labels"], packed_seq_params=segments)
        return output, partial(self._loss, batch, scale)

    def _loss(self, batch: Batch, scale: Tensor, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        mask, group = batch["loss_mask"], batch["loss_group"]
        self._step_sums += grouped_sums(losses.detach(), mask, group, len(self._languages))
        return masked_sum(losses, mask) * scale, {}

    def _keep_step(self) -> None:
        self._sums += self._step_sums
        self._step_sums.zero_()

    def take_metrics(self) -> dict[str, Any]:
        """Return the mean losses since the last call as `describe_losses` names them, in nats; collective."""
        if not self._num_passes:
            return {}
        self._keep_step()
        sums = sum_over_ranks(self._sums)
        self._sums.zero_()
        self._num_passes = 0
        return describe_losses(sums, self._languages)


class LanguageModelling(LanguageModelLoss):
    """The objective: one pass a step over the next sequences of the mix."""

    reaches_all_parameters = True

    def __init__(
        self,
        device: torch.device,
        languages: Sequence[str],
        sequences: Sequences,
        *,
        end_of_document: int | None = None,
    ) -> None:
        """Read the microbatches of each step from `sequences`."""
        super().__init__(device, languages, end_of_document=end_of_document)
        self._sequences = sequences

    def make_passes(self, state: TrainState, weight: float | None) -> list[Pass]:
        """Return the pass over the next global batch."""
        if weight is None:
            self._keep_step()
            return []
        return [self.make_pass(self._sequences.take(state), weight)]

    def step_sums(self) -> Tensor:
        """Return the sum of this rank's losses in the last step, and their number: float64 [2]."""
        return self._step_sums.sum(dim=(0, 1))

    def step_problems(self) -> list[str]:
        """Return nothing: the value of the loss shows its problems."""
        return []

    def drop_step(self) -> None:
        """Forget the losses of the last step."""
        self._step_sums.zero_()


@dataclass(frozen=True)
class LanguageModellingPlan(SequencePlan):
    """The mix of sequences, and the objective over it."""

    def build(self, state: TrainState, surroundings: Surroundings) -> LanguageModelling:
        """Build the training set, its loader and the objective; collective."""
        return LanguageModelling(
            surroundings.device,
            self.config.data.languages,
            self.open(state, surroundings.mesh, surroundings.waiting),
            end_of_document=self.document_border,
        )


def _documents(tokens: Tensor, end_of_document: int) -> Batch:
    """Return the document of each position, int64 [B, S], and its bounds through all rows, on the host."""
    documents = number_documents(tokens, end_of_document)
    return {"documents": documents, "bounds": segment_bounds(documents)}


def _pieces_of_this_rank(batch: Batch, mesh: Mesh) -> Batch:
    """Return a microbatch cut to this context-parallel rank's two pieces, but for documents, which stay whole."""
    by_position = {key: value for key, value in batch.items() if value.dim() > 1 and key != "documents"}
    return {**batch, **mesh.own_pieces(by_position)}


def masked_sum(losses: Tensor, loss_mask: Tensor) -> Tensor:
    """Sum the losses [B, S] of predicted positions, in fp32: scalar."""
    return (losses.float() * loss_mask).sum()


def grouped_sums(losses: Tensor, loss_mask: Tensor, loss_group: Tensor, num_languages: int) -> Tensor:
    """Sum losses and count positions by language and kind of position.

    Args:
        losses: [B, S].
        loss_mask: float32 [B, S], 1 where a position counts.
        loss_group: int16 [B, S], twice the number of the language, plus 1 at switched positions.
        num_languages: L.

    Returns:
        float64 [L, 2, 2]: ordinary and switched positions, of each the sum of its losses and its number.
    """
    # A sequence has one language: sum over positions first, then multiply small matrices instead of a scatter, whose
    # atomic additions on a GPU have no fixed order.
    counted = torch.stack([losses.float() * loss_mask, loss_mask])
    switched = counted * (loss_group % 2)
    rows = torch.stack([(counted - switched).sum(-1), switched.sum(-1)]).double()  # [2, 2, B]
    languages = torch.arange(num_languages, device=losses.device)
    is_of = (loss_group[:, 0, None] // 2 == languages).double()  # [B, L]
    return (rows @ is_of).permute(2, 0, 1)


def describe_losses(sums: Tensor, languages: Sequence[str]) -> dict[str, Any]:
    """Return the mean losses in nats of `grouped_sums` [L, 2, 2]; means over no position are left out.

    Returns:
        lm_loss over all positions; language_loss of each language; switched_loss and ordinary_loss if any position is
        switched.
    """
    sums = sums.cpu()  # one copy for all the reads below
    total, count = sums.sum(dim=(0, 1)).tolist()
    record: dict[str, Any] = {"lm_loss": total / count} if count else {}
    by_language = zip(languages, sums.sum(dim=1).tolist(), strict=True)
    record["language_loss"] = {language: part / number for language, (part, number) in by_language if number}
    (ordinary, num_ordinary), (switched, num_switched) = sums.sum(dim=0).tolist()
    if num_switched:
        record["switched_loss"] = switched / num_switched
        record["ordinary_loss"] = ordinary / max(num_ordinary, 1)
    return record
