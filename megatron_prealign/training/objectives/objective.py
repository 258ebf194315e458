"""The protocol of objectives: parts of the loss that plan their data, make their passes and keep their own sums.

A pass is one call of megatron-core's schedule: microbatches of one shape and a forward step. Gradients of all passes of
a step add up and are reduced once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_prealign.alignment import Taps
from megatron_prealign.platform import Mesh
from megatron_prealign.training.state import TrainState
from megatron_prealign.training.throughput import Stopwatch

LossFunction = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
ForwardStep = Callable[[Iterator[Any], torch.nn.Module], tuple[Tensor, LossFunction]]


@dataclass(frozen=True)
class Pass:
    """One call of the schedule."""

    forward_step: ForwardStep
    microbatches: Sequence[Any]
    seq_length: int
    micro_batch_size: int

    def run(self, chunks: list[torch.nn.Module], *, forward_only: bool = False) -> None:
        """Run it through megatron-core's schedule; its forward step records losses."""
        get_forward_backward_func()(
            forward_step_func=self.forward_step,
            # Each model chunk of an interleaved pipeline reads all microbatches.
            data_iterator=[iter(self.microbatches) for _ in chunks],
            model=chunks,
            num_microbatches=len(self.microbatches),
            seq_length=self.seq_length,
            micro_batch_size=self.micro_batch_size,
            forward_only=forward_only,
        )


class Objective(Protocol):
    """One part of the loss."""

    reaches_all_parameters: bool
    """Whether a step with it alone gives every parameter a gradient."""

    def make_passes(self, state: TrainState, weight: float | None) -> list[Pass]:
        """Begin a step: draw its data, advance `state` past it and return the passes, their loss times `weight`.

        Called in every step: it also adds the losses of the step before to the metrics. Without a weight the objective
        takes no part in the step and draws nothing.
        """
        ...

    def step_sums(self) -> Tensor:
        """Return this rank's sum of losses in the last step and their number of predictions: float64 [2].

        The number is 0 if the loss is not a mean over predictions; the guard against spikes ignores such a loss.
        """
        ...

    def step_problems(self) -> list[str]:
        """Return the problems of the last step that this rank sees."""
        ...

    def drop_step(self) -> None:
        """Leave the last step out of the metrics."""
        ...

    def take_metrics(self) -> dict[str, Any]:
        """Return the metrics since the last call, equal on all ranks; empty if there was no pass; collective."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What an objective needs of its process."""

    chunks: list[torch.nn.Module]
    device: torch.device
    mesh: Mesh
    taps: Callable[[], Taps]
    """Returns the hooks on the model, which the first call makes."""
    waiting: Stopwatch
    """Measures the time that steps wait for data."""


class ObjectivePlan(Protocol):
    """The data of an objective, found and checked without a process group."""

    def resume_problems(self, state: TrainState, checkpoint: Path | None) -> list[str]:
        """Return why the data can't be continued from `state`, read from `checkpoint`; None = a new run."""
        ...

    def describe(self, state: TrainState) -> str:
        """Describe the data to the user before a run that continues from `state`."""
        ...

    def build(self, state: TrainState, surroundings: Surroundings) -> Objective:
        """Build the objective at the position of `state`; collective.

        Raises:
            PrealignError: its data can't be read from that position.
        """
        ...


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum values over data- and context-parallel ranks and pipeline stages; a stage without a value passes zero."""
    mesh, total = Mesh.current(), values.clone()
    torch.distributed.all_reduce(total, group=mesh.replicas.group)
    torch.distributed.all_reduce(total, group=mesh.pipeline.group)
    return total
