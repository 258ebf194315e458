"""What a stage brings to the loop: the passes of one optimizer step, and the record of its losses.

A pass is one call of megatron-core's schedule: microbatches of one shape and a forward step. Gradients
of all passes of a step add up and are reduced once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from megatron_prealign.platform import Mesh
from megatron_prealign.training.state import TrainState

if TYPE_CHECKING:
    from megatron_prealign.training.step_losses import StepLosses

LossFunction = Callable[[torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]]
ForwardStep = Callable[[Iterator[Any], torch.nn.Module], tuple[torch.Tensor, LossFunction]]


@dataclass(frozen=True)
class Pass:
    """One call of the schedule."""

    forward_step: ForwardStep
    microbatches: Sequence[Any]
    seq_length: int
    micro_batch_size: int


class Stage(Protocol):
    """One stage of training."""

    name: str
    step_losses: "StepLosses"

    def next_passes(self, state: TrainState) -> list[Pass]:
        """Draw the passes of the next optimizer step and advance `state` past their data."""
        ...

    def take_metrics(self) -> dict[str, Any]:
        """Return the losses averaged since the last call, equal on all ranks; a collective."""
        ...


def max_over_ranks(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Return the greatest of each value on any rank; a collective."""
    greatest = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(greatest, torch.distributed.ReduceOp.MAX)
    return dict(zip(values, greatest.tolist(), strict=True))


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum values over data- and context-parallel ranks and pipeline stages; stages that know nothing hold zeros."""
    mesh, total = Mesh.current(), values.clone()
    torch.distributed.all_reduce(total, group=mesh.replicas.group)
    torch.distributed.all_reduce(total, group=mesh.pipeline.group)
    return total
