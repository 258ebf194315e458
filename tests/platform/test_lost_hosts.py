"""A rank that lost contact names the hosts whose processes ended or that do not answer."""

import contextlib
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
import torch

from megatron_prealign.platform import agreement, initialize_distributed, select_platform, shut_down_distributed
from megatron_prealign.platform.agreement import lost_hosts, report_failure
from megatron_prealign.testing import run_distributed

_hosts = agreement._Hosts


@contextlib.contextmanager
def _silent_port() -> Iterator[int]:
    """Yield a port with so many open questions that the system drops further ones, as a lost link does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def _start(ranks_per_host: int) -> int:
    rank = int(os.environ["RANK"])
    os.environ["LOCAL_RANK"] = str(rank % ranks_per_host)
    initialize_distributed(select_platform("cpu"))
    return rank


def _ask() -> tuple[str, str]:
    rank = _start(2)
    whole = lost_hosts()
    torch.distributed.barrier()
    if rank == 2:
        assert _hosts.listener is not None
        _hosts.listener.close()
    torch.distributed.barrier()
    first, *others = _hosts.known
    with _silent_port() as port:
        _hosts.known = (first._replace(port=port), *others)
        broken = lost_hosts()
    shut_down_distributed()
    assert _hosts.listener is None
    return whole, broken


def test_hosts_that_ended_or_do_not_answer_are_named() -> None:
    name = socket.gethostname()
    for whole, broken in run_distributed(_ask, 6):
        assert whole == "all 3 hosts answer"
        assert broken == (
            f"{name} (127.0.0.1, ranks from 0): no answer; "
            f"{name} (127.0.0.1, ranks from 2): its first process has ended"
        )


def _tell(folder: Path) -> None:
    rank = _start(2)
    torch.distributed.barrier()
    with (folder / f"{rank}").open("w") as file, contextlib.redirect_stderr(file):
        report_failure(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), rank)


def test_a_rank_that_lost_contact_prints_what_the_hosts_answer(tmp_path: Path) -> None:
    run_distributed(_tell, 4, tmp_path)
    for rank in range(4):
        line = f"rank {rank} on {socket.gethostname()} asked all hosts: all 2 hosts answer"
        assert line in (tmp_path / str(rank)).read_text().splitlines()


def _meet_on_one_host() -> bool:
    _start(2)
    listens = _hosts.listener is not None or bool(_hosts.known)
    shut_down_distributed()
    return listens


def test_one_host_does_not_listen() -> None:
    assert run_distributed(_meet_on_one_host, 2) == [False, False]


def _meet(addresses: dict[int, str]) -> tuple[list[str], bool]:
    """Meet with other addresses towards the first host; return those that are known, and whether this rank listens."""
    rank = int(os.environ["RANK"])
    towards = agreement._address_towards
    agreement._address_towards = lambda host: addresses[rank] if host == "127.0.0.1" else towards(host)
    _start(1)
    met = [host.address for host in _hosts.known], _hosts.listener is not None
    shut_down_distributed()
    return met


def _outside() -> str:
    """Return an address of this machine that others can ask."""
    address = agreement._address_towards("192.0.2.1")
    if not address or ip_address(address).is_loopback:
        pytest.skip("needs a network")
    return address


def test_a_host_that_knows_itself_by_loopback_listens_where_others_can_ask() -> None:
    outside = _outside()
    assert run_distributed(_meet, 2, {0: "127.0.1.1", 1: outside}) == [([outside, outside], True)] * 2


@pytest.mark.parametrize("address", ["", "240.0.0.1"], ids=["no way", "not its own"])
def test_no_host_listens_if_one_cannot(address: str) -> None:
    assert run_distributed(_meet, 2, {0: "127.0.0.1", 1: address}) == [([], False)] * 2


def test_over_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    if not agreement._address_towards("::1"):
        pytest.skip("needs IPv6")
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(_hosts, "listener", None)
    host = agreement._listen("::1")
    assert host is not None
    monkeypatch.setattr(_hosts, "known", (host,))
    assert lost_hosts() == "all 1 hosts answer"
    agreement.leave_hosts()
