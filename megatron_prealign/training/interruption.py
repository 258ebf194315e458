"""Stop a run from outside: a signal to any rank, or its time limit, ends all ranks after the same step."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from megatron_prealign.signals import SIGNALS, note_signals

_CAUSES = ("", "training.exit_duration_minutes", *(number.name for number in SIGNALS))
_RUN_ID = "TORCHELASTIC_RUN_ID"
_AGENTS = ("torchrun", "torch.distributed", "torch/distributed")
# Field of /proc/<pid>/stat after the name in parentheses: start of the process, in ticks since boot.
_START_FIELD = 19


class Interruption:
    """Notice a request to stop this rank, and agree on it with the other ranks.

    In each step the ranks add up their votes together with the losses that the guard judges: no collective, and no wait
    for the device, is added.
    """

    def __init__(self, minutes: float | None) -> None:
        """Handle SIGTERM and SIGUSR1, earlier ones included that were noted.

        Args:
            minutes: Time limit, counted from the start of the job; None = no limit.
        """
        self.cause = ""
        self._note = note_signals()
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes - job_age()

    def vote(self) -> float:
        """Return 0, or a number for why this rank must stop, in a base in which the votes of all ranks add up."""
        noted = _CAUSES.index(self._note.name)
        if self._deadline is not None and not noted and time.monotonic() >= self._deadline:
            noted = 1
        return float(_base() ** (noted - 1)) if noted else 0.0

    def count(self, votes: float) -> bool:
        """Return whether any rank must stop, from the sum of all votes; keep the cause."""
        noted = next((number for number in reversed(range(1, len(_CAUSES))) if votes >= _base() ** (number - 1)), 0)
        self.cause = _CAUSES[noted]
        return bool(self.cause)

    def agreed(self, device: torch.device) -> bool:
        """Return whether any rank must stop before the first step, and keep the cause; collective."""
        votes = torch.full((), self.vote(), dtype=torch.float64, device=device)
        torch.distributed.all_reduce(votes)
        return self.count(votes.item())


def _base() -> int:
    return torch.distributed.get_world_size() + 1


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Block the signals in this thread, and permanently in processes started inside.

    A signal to the whole process group must not end the helper processes of a save.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def job_age() -> float:
    """Return the seconds since this process's job started; call it once, then count with a monotonic clock.

    A job starts at SLURM_JOB_START_TIME (Slurm 22.05 and later), with torchrun's agent, which survives restarts of its
    processes, or with this process: the earliest known. Clock changes have no effect.
    """
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
    with contextlib.suppress(psutil.Error, OSError):
        yield _age(process)
    with contextlib.suppress(psutil.Error, OSError):
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
