"""Share plain values and failures between ranks: small collectives, and the report of a rank that failed alone."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from megatron_prealign.errors import PrealignError

T = TypeVar("T")

HOLD_SECONDS = 2.0
"""Wait of a rank that lost contact before it prints its traceback; torchrun usually stops it earlier."""


def from_all_ranks(value: T) -> list[T]:
    """Return the values (picklable) of all ranks, in rank order; collective."""
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Make a block that fails on any rank fail on all; collective, with no collectives inside.

    Raises:
        PrealignError: The block failed on some rank; lists the causes.
    """
    problems: list[str] = []
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
        problems = error.problems if isinstance(error, PrealignError) else [f"{type(error).__name__}: {error}"]
    # The same cause on several ranks is one problem.
    problems = list(dict.fromkeys(problem for found in from_all_ranks(problems) for problem in found))
    if problems:
        raise PrealignError(problems) from failure


def on_first_rank(function: Callable[[], T]) -> T:
    """Call a function on rank 0 only and return its value (picklable) on all ranks; collective.

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
    """Return the maximum of each value over all ranks; collective."""
    greatest = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(greatest, torch.distributed.ReduceOp.MAX)
    return dict(zip(values, greatest.tolist(), strict=True))


def report_failure(error: BaseException, rank: int) -> None:
    """Record an error for torchrun before its traceback is printed; a rank that only lost contact says so and waits."""
    if _has_lost_contact(error):
        print(
            f"rank {rank} lost contact with another rank ({_first_line(error)}): it died, hangs for longer "
            "than parallel.distributed_timeout_minutes, or the network fails; "
            "the earliest traceback in the logs has the cause",
            file=sys.stderr,
            flush=True,
        )
        # From here on torchrun's SIGTERM ends the process; it is no longer a request to save.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(HOLD_SECONDS)
    # torchrun's summary then shows this traceback as the root cause.
    get_error_handler().record_exception(error)


def _has_lost_contact(error: BaseException | None) -> bool:
    """Return whether a collective failed because another rank or the network did; gloo has no error type of its own."""
    if error is None:
        return False
    if isinstance(error, torch.distributed.DistError) or "gloo/transport/" in str(error):
        return True
    return _has_lost_contact(error.__cause__ or error.__context__)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
