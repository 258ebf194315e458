"""Two hosts on one machine: network namespaces with a link between them and folders of their own (Linux, root)."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.launching import start

PORT = 29400


@dataclass(frozen=True)
class Host:
    """A namespace, its address, its end of the link, and the folder that is its own."""

    name: str
    address: str
    interface: str
    folder: Path

    def start(self, values: dict[str, Any], log_path: Path, first: "Host", *options: str) -> subprocess.Popen[str]:
        """Start torchrun with two ranks; what the run writes to its run folder lands in this host's own."""
        run = values["training"]["run_path"]
        inside = f'mount --bind {self.folder} {run} && export GLOO_SOCKET_IFNAME={self.interface} && exec "$@"'
        rendezvous = ("--rdzv-backend", "c10d", "--rdzv-id", "two", "--rdzv-endpoint", f"{first.address}:{PORT}")
        # torchrun would tell who keeps the rendezvous by the name of the host, which both share.
        layout = ("--rdzv-conf", f"is_host={int(self == first)}", "--local-addr", self.address)
        layout += ("--nnodes", "2", "--nproc-per-node", "2")
        prefix = ("ip", "netns", "exec", self.name, "sh", "-c", inside, "sh")
        return start(values, log_path, *rendezvous, *layout, *options, prefix=prefix)

    def set_link(self, state: str) -> None:
        """Set this end of the link up or down."""
        _ip("-n", self.name, "link", "set", self.interface, state)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[list[Host]]:
    """Make both, and remove them; skip the test where that is not permitted."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command `ip` (iproute2)")
    hosts = [
        Host(f"prealign-{os.getpid()}-{side}", f"10.77.0.{side}", f"pa{os.getpid()}-{side}", folder / f"host_{side}")
        for side in (1, 2)
    ]
    try:
        try:
            for host in hosts:
                _ip("netns", "add", host.name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
        here, there = hosts
        _ip(
            "-n", here.name, "link", "add", here.interface, "type", "veth", "peer", there.interface, "netns", there.name
        )
        for host in hosts:
            host.folder.mkdir()
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.interface)
            _ip("-n", host.name, "link", "set", "lo", "up")
            host.set_link("up")
        yield hosts
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)
