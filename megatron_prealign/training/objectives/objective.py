"""What every objective is: a part of the loss that plans its data, makes its passes and keeps its own sums.

A pass is one call of megatron-core's schedule: microbatches of one shape and a forward step. Gradients
of all passes of a step add up and are reduced once.
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
        """Run it through megatron-core's schedule; losses are recorded by its forward step."""
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

        Called in every step, so that the losses of the step before count from now on; without a weight the objective
        has no part in the step and draws nothing.
        """
        ...

    def step_sums(self) -> Tensor:
        """Return of this rank's last step float64 [2]: the sum of losses, and the number of predictions it is of.

        The number is 0 where the loss is no mean over predictions: the guard against spikes watches the others.
        """
        ...

    def step_problems(self) -> list[str]:
        """Return what this rank knows to be wrong with the last step."""
        ...

    def drop_step(self) -> None:
        """Leave the last step out of the metrics."""
        ...

    def take_metrics(self) -> dict[str, Any]:
        """Return the metrics since the last call, equal on all ranks; empty without a pass since; collective."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What a process offers the objectives that it builds."""

    chunks: list[torch.nn.Module]
    device: torch.device
    mesh: Mesh
    taps: Callable[[], Taps]
    """The hooks on the model; made by the first call, shared by all others."""
    waiting: Stopwatch
    """Runs while a step waits for data."""


class ObjectivePlan(Protocol):
    """The data of an objective, found and checked without a process group."""

    def resume_problems(self, state: TrainState, checkpoint: Path | None) -> list[str]:
        """Return why the data can't be continued from `state`, read from `checkpoint`; none = a new run."""
        ...

    def describe(self, state: TrainState) -> str:
        """Return what a person should know of the data before a run that continues from `state`."""
        ...

    def build(self, state: TrainState, surroundings: Surroundings) -> Objective:
        """Build the objective from where `state` stands; collective.

        Raises:
            PrealignError: its data can't be read, or not from there.
        """
        ...


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum values over data- and context-parallel ranks and pipeline stages; stages that know nothing hold zeros."""
    mesh, total = Mesh.current(), values.clone()
    torch.distributed.all_reduce(total, group=mesh.replicas.group)
    torch.distributed.all_reduce(total, group=mesh.pipeline.group)
    return total
