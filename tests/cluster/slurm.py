"""A real Slurm of several hosts on one machine, up in about two seconds (root, Linux, Debian's slurm-wlm and munge)."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Host, make_hosts

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
_NOT_ENDED = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")
_GPUS = 8
# ProctrackType, TaskPlugin: without control groups. config_overrides: hosts may claim more than the machine has.
# ReturnToService=2: a host that comes back is used again. BatchStartTimeout=1: its jobs are missed sooner, after 40
# seconds instead of 100. jobcomp records how jobs ended, without a data base.
_CONFIGURATION = """ClusterName=test
SlurmctldHost=ctl({controller})
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
MailProg=/bin/true
MpiDefault=none
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/spool/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=6
BatchStartTimeout=1
KillWait=30
MessageTimeout=10
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
NodeName=n[1-{num_hosts}] NodeAddr={network}.[1-{num_hosts}] CPUs=8 RealMemory=16000 Gres=gpu:{gpus}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Slurm:
    """A cluster that is up."""

    controller: Host
    hosts: list[Host]
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Return what a command of Slurm needs to find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str) -> str:
        """Run a command where jobs are submitted, and return what it printed; it must succeed."""
        result = self.controller.run(command, self.environment)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def submit(self, script: Path, *options: str, user: str = "root") -> str:
        """Submit a script as a user and return the job's id."""
        as_user = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        return self.run(*as_user, "sbatch", "--parsable", *options, str(script)).strip()

    def show(self, job: str) -> dict[str, str]:
        """Return the fields of a job, or of the first task of an array that is shown."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job).splitlines()[0]
        return dict(part.split("=", 1) for part in shown.split() if "=" in part)

    def wait(self, job: str, seconds: float = 200.0) -> tuple[str, str]:
        """Wait until a job has ended; return its state and "exit code:signal" as the scheduler shows them."""
        deadline = time.monotonic() + seconds
        while (fields := self.start_now(job))["JobState"] in _NOT_ENDED:
            assert time.monotonic() < deadline, f"after {seconds} s: {fields}"
            assert fields["Reason"] != "DependencyNeverSatisfied", f"job {job} would wait for ever"
            time.sleep(0.3)
        return fields["JobState"], fields["ExitCode"]

    def start_now(self, job: str) -> dict[str, str]:
        """Return the fields of a job; one that was requeued, and would wait two minutes, starts in about two seconds.

        Not at once: hosts refuse a start of a job within the second in which its earlier one was revoked.
        """
        fields = self.show(job)
        if fields["Reason"] == "BeginTime":
            left = datetime.fromisoformat(fields["EligibleTime"]) - datetime.now()
            if left.total_seconds() > 10:
                self.controller.run(["scontrol", "update", f"job={job}", "StartTime=now+2"], self.environment)
        return fields

    def start_host(self, host: Host) -> None:
        """Start the daemon of a host, also of one that was killed."""
        command = ["nice", "-n", "10", "slurmd", "-D", "-N", host.name]
        host.start(command, self.folder / f"{host.name}.out", self.environment)


@contextlib.contextmanager
def make_slurm(folder: Path, num_hosts: int) -> Iterator[Slurm]:
    """Start a cluster, and end it; skip the test where Slurm is not installed or namespaces are not permitted."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not found; `make test-cluster` installs Slurm on Debian")
    with make_hosts(folder, num_hosts) as (controller, *hosts):
        slurm = Slurm(controller, hosts, folder)
        _configure(slurm)
        munged = _start_munge(folder)
        try:
            controller.start(["slurmctld", "-D"], folder / "ctl.out", slurm.environment)
            for host in hosts:
                slurm.start_host(host)
            _wait_for_hosts(slurm)
            yield slurm
        finally:
            munged.kill()
            munged.wait()


def _configure(slurm: Slurm) -> None:
    folder = slurm.folder
    for name in ("state", *(f"spool/{host.name}" for host in slurm.hosts)):
        (folder / name).mkdir(parents=True)
    address, num_hosts = slurm.controller.address, len(slurm.hosts)
    network = address.rpartition(".")[0]
    text = _CONFIGURATION.format(folder=folder, controller=address, num_hosts=num_hosts, network=network, gpus=_GPUS)
    (folder / "slurm.conf").write_text(text)
    # A count of GPUs without device files drains the hosts.
    for number in range(_GPUS):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{_GPUS - 1}]\n")
    # Never used; its detection fails where no control groups are mounted.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")


def _start_munge(folder: Path) -> subprocess.Popen[bytes]:
    """Start an authentication service with a key and a socket of its own."""
    own = folder / "munge"
    own.mkdir(mode=0o700)
    key = own / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = {"key-file": key, "pid-file": own / "pid", "log-file": own / "log", "seed-file": own / "seed"}
    options = [f"--{name}={path}" for name, path in files.items()]
    # --force: it minds that the temporary folder of the tests is not root's alone.
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "munged",
        "--foreground",
        "--force",
        f"--socket={folder}/munge.socket",
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait_for_hosts(slurm: Slurm) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        shown = slurm.controller.run(["timeout", "2", "sinfo", "-h", "-o", "%T %D"], slurm.environment).stdout
        if shown.strip() == f"idle {len(slurm.hosts)}":
            return
        time.sleep(0.2)
    log = "\n".join(path.read_text()[-1500:] for path in slurm.folder.glob("*.out"))
    raise AssertionError(f"the hosts are not idle: {shown}\n{log}")


def wait_until(happened: Callable[[], Any], seconds: float = 200.0) -> Any:
    """Wait for something that is about to happen, and return it."""
    deadline = time.monotonic() + seconds
    while not (result := happened()):
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.05)
    return result


def jobs_of(printed: str) -> dict[str, str]:
    """Return step → job from what tools/submit.py printed."""
    return dict(line.split(": job ") for line in printed.splitlines() if ": job " in line)
