"""Hosts on one machine: each a network namespace with its own name, address, processes and mounts (Linux, root)."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

Finished = subprocess.CompletedProcess[str]

_NETWORK = "10.78.0"
_SWITCH = 254
# A host ends with the process of the tests, however that ends.
_WITH_THE_TESTS = ("setpriv", "--pdeathsig", "KILL")


@dataclass
class Host:
    """One host; its processes end with it."""

    name: str
    number: int
    folder: Path
    """For its output, and for `hosts`, the names of all."""
    namespace: str
    outside: str
    """The end of its link that is plugged into the switch."""
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{_NETWORK}.{self.number}"

    @property
    def enter(self) -> str:
        """Return what before a command runs it in the host's network."""
        return f"nsenter --net=/run/netns/{self.namespace}"

    def start(
        self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None, prepare: str = ":"
    ) -> subprocess.Popen[str]:
        """Start a command in a process tree of its own, of which it is not the first: that one can't be killed inside.

        Args:
            command: What to run.
            log: Takes its output, after that of earlier ones.
            environment: Additional variables.
            prepare: Shell commands that run first, in the host's own mounts.
        """
        inside = f'hostname {self.name} && mount --bind {self.folder}/hosts /etc/hosts && {prepare} && "$@"; exit $?'
        own = [
            "unshare",
            "--uts",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            inside,
            "sh",
        ]
        with log.open("a") as stream:
            process = subprocess.Popen(
                [*_WITH_THE_TESTS, *self.enter.split(), *own, "sh", "-c", inside, "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env=os.environ | (environment or {}),
            )
        self.processes.append(process)
        return process

    def run(self, command: Sequence[str], environment: dict[str, str] | None = None) -> Finished:
        """Run a command in the host's network alone, and return what it printed."""
        return subprocess.run(
            [*self.enter.split(), *command],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | (environment or {}),
        )

    def kill(self) -> None:
        """Kill all its processes at once."""
        for process in self.processes:
            process.kill()  # nsenter has become unshare, whose end takes the process tree with it
            process.wait()
        self.processes.clear()

    def set_link(self, state: str) -> None:
        """Plug it into the switch ("up") or pull the plug ("down")."""
        _ip("-n", f"{self.namespace.rpartition('-')[0]}-0", "link", "set", self.outside, state)


@contextlib.contextmanager
def make_hosts(folder: Path, num_hosts: int) -> Iterator[list[Host]]:
    """Make hosts n1, n2, ... on one switch, which belongs to the host `ctl`; yield ctl first, remove all at the end.

    Skips the test where that is not permitted.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command `ip` (iproute2)")
    mark = f"pa{os.getpid()}"
    hosts = [
        Host(f"n{number}" if number else "ctl", number or _SWITCH, folder, f"{mark}-{number}", f"{mark}v{number}")
        for number in range(num_hosts + 1)
    ]
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in hosts)]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    switch, *others = hosts
    try:
        try:
            for host in hosts:
                _ip("netns", "add", host.namespace)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
        _ip("-n", switch.namespace, "link", "add", "eth0", "type", "bridge")
        for host in others:
            veth = ("type", "veth", "peer", "eth0", "netns", host.namespace)
            _ip("-n", switch.namespace, "link", "add", host.outside, *veth)
            _ip("-n", switch.namespace, "link", "set", host.outside, "master", "eth0", "up")
        for host in hosts:
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            _ip("-n", host.namespace, "link", "set", "eth0", "up")
        yield hosts
    finally:
        for host in hosts:
            host.kill()
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host.namespace], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
