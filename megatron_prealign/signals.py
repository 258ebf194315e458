"""Note a request to stop from the start of a process, so that one that comes while it imports or builds is not lost."""

import signal
import time

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class SignalNote:
    """A handler that keeps the name of the last signal."""

    name = ""
    """Of the signal; empty before the first."""
    _noted_at = 0.0

    def __call__(self, number: int, _: object) -> None:
        """Note a signal."""
        self._noted_at = self._noted_at or time.monotonic()
        self.name = signal.Signals(number).name

    def age(self) -> float:
        """Return the seconds since the first signal; 0 before it."""
        return time.monotonic() - self._noted_at if self.name else 0.0


def note_signals() -> SignalNote:
    """Let SIGTERM and SIGUSR1 no longer end this process; return the note, the same one at each call."""
    note = current_note() or SignalNote()
    for number in SIGNALS:
        signal.signal(number, note)
    return note


def current_note() -> SignalNote | None:
    """Return the note of this process, if it has one."""
    handler = signal.getsignal(signal.SIGTERM)
    return handler if isinstance(handler, SignalNote) else None
