"""What one rank knows or fails at, told to all: small collectives over plain values."""

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch

from megatron_prealign.errors import PrealignError

T = TypeVar("T")


def from_first_rank(value: T) -> T:
    """Return rank 0's value on every rank; picklable, collective."""
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def from_all_ranks(value: T) -> list[T]:
    """Return every rank's value on every rank, in rank order; picklable, collective."""
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Run a block that may fail on some ranks only, and fail on all; collective, so no collectives inside.

    Raises:
        PrealignError: The block failed on other ranks; names them and the causes. A rank on which it failed raises its
            own error.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    rank = torch.distributed.get_rank()
    causes = from_all_ranks(None if failure is None else f"rank {rank}: {failure}")
    if failure is not None:
        raise failure
    problems = [cause for cause in causes if cause is not None]
    if problems:
        raise PrealignError(problems)
