"""Stop a run from outside: a signal to any rank, or its time limit, ends all ranks after the same step."""

import contextlib
import signal
import time
from collections.abc import Iterator

import torch

from megatron_prealign.platform.agreement import max_over_ranks
from megatron_prealign.signals import SIGNALS, note_signals
from megatron_prealign.training.job_start import job_age

_CAUSES = ("", "training.exit_duration_minutes", *(number.name for number in SIGNALS))


class Interruption:
    """Notice a request to stop this rank, and agree on it with the other ranks."""

    def __init__(self, minutes: float | None) -> None:
        """Heed SIGTERM and SIGUSR1, also earlier ones that were noted.

        Args:
            minutes: Time limit, counted from the start of the job; None = no limit.
        """
        self.cause = ""
        self._note = note_signals()
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes - job_age()

    def agreed(self, device: torch.device) -> bool:
        """Return whether any rank is to stop, and keep the cause; a collective."""
        noted = _CAUSES.index(self._note.name)
        if self._deadline is not None and not noted and time.monotonic() >= self._deadline:
            noted = 1
        self.cause = _CAUSES[int(max_over_ranks({"cause": float(noted)}, device)["cause"])]
        return bool(self.cause)


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
