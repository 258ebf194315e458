"""A link that stays down: all processes of all hosts end, torchrun's agents too, and name the hosts that are lost."""

import re
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.hosts import Host
from tests.cluster.slurm import wait_until
from tests.cluster.talking import TIMEOUT_SECONDS
from tests.launching import ROOT

JOIN_SECONDS = 180.0  # also the most by which hosts may start one after the other
# An agent whose rendezvous is out of reach waits until the system gives its connection up: after 8 repetitions 102
# seconds at least, after the usual 15 a quarter of an hour.
TCP_RETRIES, TCP_SECONDS = 8, 120.0
SLOW_SECONDS = 150.0  # to write tracebacks and end on a loaded machine


@pytest.mark.exhaustive
@pytest.mark.timeout(2000)
@pytest.mark.parametrize("lost", [0, 3], ids=["rendezvous", "other"])
def test_all_processes_end_and_name_the_lost_hosts(hosts: list[Host], lost: int, tmp_path: Path) -> None:
    script = [str(ROOT / "tests" / "cluster" / "talking.py"), str(tmp_path)]
    conf = f"--rdzv-conf=join_timeout={JOIN_SECONDS:.0f},read_timeout=30"
    options = ["--rdzv-backend=c10d", "--rdzv-id=test", "--rdzv-endpoint=n1:29500", conf, "--nnodes=4"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--max-restarts=2", *script]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for host in hosts:
        host.run(["sysctl", "-qw", f"net.ipv4.tcp_retries2={TCP_RETRIES}"])
    agents = [host.start(command, tmp_path / f"{host.name}.log", environment) for host in hosts]
    wait_until(lambda: len(list(tmp_path.glob("rank_*"))) == len(hosts), 900)

    hosts[lost].set_link("down")
    deadline = time.monotonic() + TIMEOUT_SECONDS + max(JOIN_SECONDS, TCP_SECONDS) + SLOW_SECONDS
    assert [agent.wait(max(0.0, deadline - time.monotonic())) for agent in agents] == [1] * 4
    for host in hosts:
        # Those on the other side of the link.
        others = {other.name for other in hosts if (other == hosts[lost]) != (host == hosts[lost])}
        log = (tmp_path / f"{host.name}.log").read_text()
        assert set(re.findall(r"(n\d) \([\d.]+, ranks from \d\): no answer", log)) == others, log
