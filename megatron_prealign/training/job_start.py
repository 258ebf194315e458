"""How old the job of this process is, whatever the clock says meanwhile and however often the process was restarted.

A job starts when Slurm says (SLURM_JOB_START_TIME, since 22.05), or with torchrun's agent, which outlives the processes
that it starts again, or with this process: the earliest of what is known.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_RUN_ID = "TORCHELASTIC_RUN_ID"
_AGENTS = ("torchrun", "torch.distributed", "torch/distributed")
# In /proc/<pid>/stat, behind the name in parentheses: when the process started, in ticks since the host did.
_START_FIELD = 19


def job_age() -> float:
    """Return the seconds since the job started; call it once and go on by a monotonic clock."""
    return max(_known_ages(), default=0.0)


def _known_ages() -> Iterator[float]:
    # The start by Slurm is one of the wall clock; the processes' ages, which are not, keep a clock set back from
    # taking more than the time before them.
    start_time = os.environ.get("SLURM_JOB_START_TIME", "")
    if start_time.isdecimal():
        age = time.time() - int(start_time)
        # A job is not older than its host has been up.
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
    """Return the agent of torchrun that started this process, maybe through a script."""
    run_id = os.environ.get(_RUN_ID)
    if run_id is None:
        return None
    for parent in process.parents():
        # The agent gives the name to what it starts and does not have it itself.
        if parent.environ().get(_RUN_ID) != run_id:
            is_agent = any(name in argument for argument in parent.cmdline() for name in _AGENTS)
            return parent if is_agent else None
    return None


def _age(process: psutil.Process) -> float:
    """Return the seconds since a process started, on Linux by the clock that nobody sets."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        status = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(status.rpartition(")")[2].split()[_START_FIELD])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return float(time.time() - process.create_time())
