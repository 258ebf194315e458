"""Share plain values and failures between ranks: small collectives, and the report of a rank that failed alone."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import NamedTuple, TypeVar

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from megatron_prealign.errors import PrealignError
from megatron_prealign.ranks import is_first_of_host

T = TypeVar("T")

HOLD_SECONDS = 2.0
"""Wait of a rank that lost contact before it prints its traceback; torchrun usually stops it earlier."""
_ANSWER_SECONDS = 1.5  # of a host, while its other ranks still hold
_MOST_QUESTIONS = 4096  # at once; those of all ranks wait unread


class _Host(NamedTuple):
    name: str
    address: str
    port: int
    """On which its first rank listens and never reads: the system answers, also for a process that hangs."""
    first_rank: int


class _Hosts:
    """The hosts of a run on several, as known from its start; empty if one of them could not listen."""

    known: tuple[_Host, ...] = ()
    listener: socket.socket | None = None


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


def meet_hosts() -> None:
    """Remember the hosts of a run on several, so that a failure can name those that are lost; collective."""
    address = _address_towards(os.environ["MASTER_ADDR"]) if is_first_of_host() else None
    addresses = [found for found in from_all_ranks(address) if found is not None]
    if len(addresses) == 1:
        return
    if address and ip_address(address).is_loopback:
        # A host often knows its own name, here that of MASTER_ADDR, by an address that no other host can ask.
        outside = [found for found in addresses if found and not ip_address(found).is_loopback]
        address = _address_towards(outside[0]) if outside else address
    hosts = [found for found in from_all_ranks(_listen(address) if address else None) if found is not None]
    if len(hosts) == len(addresses):
        _Hosts.known = tuple(hosts)
    else:
        leave_hosts()


def leave_hosts() -> None:
    """Forget the hosts and stop listening; may be called twice."""
    _Hosts.known = ()
    if _Hosts.listener is not None:
        _Hosts.listener.close()
        _Hosts.listener = None


def _address_towards(host: str) -> str:
    """Return the address that this host has for another one, or nothing if there is no way to it; sends nothing."""
    with contextlib.suppress(OSError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
    return ""


def _listen(address: str) -> _Host | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        _Hosts.listener = socket.create_server((address, 0), family=family, backlog=_MOST_QUESTIONS)
    except OSError:
        return None
    port = _Hosts.listener.getsockname()[1]
    return _Host(socket.gethostname(), address, port, torch.distributed.get_rank())


def lost_hosts() -> str:
    """Ask all hosts of the run, and return which do not answer."""

    async def ask(host: _Host) -> str:
        try:
            connecting = asyncio.open_connection(host.address, host.port)
            _, writer = await asyncio.wait_for(connecting, _ANSWER_SECONDS)
        except ConnectionRefusedError:
            return "its first process has ended"
        except OSError:
            return "no answer"
        writer.close()
        return ""

    async def ask_all() -> list[str]:
        return await asyncio.gather(*map(ask, _Hosts.known))

    found = [
        f"{host.name} ({host.address}, ranks from {host.first_rank}): {answer}"
        for host, answer in zip(_Hosts.known, asyncio.run(ask_all()), strict=True)
        if answer
    ]
    return "; ".join(found) or f"all {len(_Hosts.known)} hosts answer"


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
        if _Hosts.known:
            with contextlib.suppress(OSError):  # such as too many open files; the failure itself matters more
                print(
                    f"rank {rank} on {socket.gethostname()} asked all hosts: {lost_hosts()}",
                    file=sys.stderr,
                    flush=True,
                )
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
