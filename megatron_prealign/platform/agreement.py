"""What one rank knows or fails at, told to all: small collectives over plain values."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from megatron_prealign.errors import PrealignError

T = TypeVar("T")


def from_all_ranks(value: T) -> list[T]:
    """Return every rank's value on every rank, in rank order; picklable, collective."""
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Run a block that may fail on some ranks only, and fail on all; collective, so no collectives inside.

    Raises:
        PrealignError: The block failed somewhere; lists the causes.
    """
    problems: list[str] = []
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
        problems = error.problems if isinstance(error, PrealignError) else [f"{type(error).__name__}: {error}"]
    # One cause of several ranks is one problem.
    problems = list(dict.fromkeys(problem for found in from_all_ranks(problems) for problem in found))
    if problems:
        raise PrealignError(problems) from failure


def on_first_rank(function: Callable[[], T]) -> T:
    """Call a function on rank 0 alone and return its value on all; picklable, collective.

    Raises:
        PrealignError: It failed; raised on all ranks.
    """
    values: list[T | None] = [None]
    is_first = torch.distributed.get_rank() == 0
    with failing_together():
        if is_first:
            values = [function()]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[return-value]


def max_over_ranks(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Return the greatest of each value on any rank; a collective."""
    greatest = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(greatest, torch.distributed.ReduceOp.MAX)
    return dict(zip(values, greatest.tolist(), strict=True))
