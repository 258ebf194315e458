"""Measure the age of this process's job, independent of clock changes and of restarts.

A job starts at SLURM_JOB_START_TIME (Slurm 22.05 and later), with torchrun's agent, which survives the restarts of its
processes, or with this process: the earliest known.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_RUN_ID = "TORCHELASTIC_RUN_ID"
_AGENTS = ("torchrun", "torch.distributed", "torch/distributed")
# Field of /proc/<pid>/stat after the name in parentheses: start of the process, in ticks since boot.
_START_FIELD = 19


def job_age() -> float:
    """Return the seconds since the job started; call it once, then count with a monotonic clock."""
    return max(_known_ages(), default=0.0)


def _known_ages() -> Iterator[float]:
    # Slurm's start is wall-clock time. If the clock was set back, the processes' ages, which do not depend on it, are a
    # lower bound.
    start_time = os.environ.get("SLURM_JOB_START_TIME", "")
    if start_time.isdecimal():
        age = time.time() - int(start_time)
        # A job cannot be older than its host's uptime.
        if age <= time.time() - psutil.boot_time():
            yield age
    process = psutil.Process()
    with suppress(psutil.Error, OSError):
        yield _age(process)
    with suppress(psutil.Error, OSError):
        agent = _find_agent(process)
        if agent is not None:
            yield _age(agent)


def _find_agent(process: psutil.Process) -> psutil.Process | None:
    """Return the torchrun agent that started this process, directly or through a script."""
    run_id = os.environ.get(_RUN_ID)
    if run_id is None:
        return None
    for parent in process.parents():
        # The agent sets the variable for its children and does not have it itself.
        if parent.environ().get(_RUN_ID) != run_id:
            is_agent = any(name in argument for argument in parent.cmdline() for name in _AGENTS)
            return parent if is_agent else None
    return None


def _age(process: psutil.Process) -> float:
    """Return the seconds since a process started; on Linux by the boot-time clock, which cannot be set."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        status = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(status.rpartition(")")[2].split()[_START_FIELD])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return float(time.time() - process.create_time())
