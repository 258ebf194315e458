"""A tracker in a thread of its own: a service that fails or hangs neither ends a run nor holds it up."""

from collections.abc import Callable, Mapping
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

_MOST_WAITING = 1000
"""Records that wait for a slow service, so that memory stays bounded."""


class Tracker(Protocol):
    """One service that draws a run's numbers."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of one record."""
        ...

    def close(self) -> None:
        """Send what is left and end the run."""
        ...


class TrackerThread:
    """Hands records over to a service; what it doesn't take is missing there alone."""

    def __init__(
        self, name: str, open_tracker: Callable[[], Tracker], say: Callable[[str], None], close_seconds: float = 60.0
    ) -> None:
        """Open the service; what fails to open is tried again with each record.

        Args:
            name: of the service, for a person.
            open_tracker: opens it.
            say: shows a line.
            close_seconds: for how long `close` waits at most.
        """
        self._name = name
        self._open = open_tracker
        self._say = say
        self._close_seconds = close_seconds
        self._lacks_records = False
        self._records: SimpleQueue[tuple[Mapping[str, float], int] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Hand over the numbers of one record; returns at once."""
        if self._records.qsize() < _MOST_WAITING:
            self._records.put((numbers, step))
        else:
            self._lacks_records = True

    def close(self) -> None:
        """Wait until all is taken, but not for ever, and say where something is missing."""
        self._records.put(None)
        self._thread.join(self._close_seconds)
        if self._thread.is_alive():
            self._say(f"{self._name}: not done after {self._close_seconds:g} seconds; metrics.jsonl has all records")
        elif self._lacks_records:
            self._say(f"{self._name}: lacks records; metrics.jsonl has all")

    def _run(self) -> None:
        tracker: Tracker | None = None
        fails = False
        try:
            tracker = self._open()
        except Exception as error:  # each library has its own kinds
            fails = self._complain(error)
        for numbers, step in iter(self._records.get, None):
            try:
                tracker = tracker or self._open()
                tracker.log(numbers, step)
            except Exception as error:
                fails = fails or self._complain(error)
                self._lacks_records = True
            else:
                if fails:
                    self._say(f"{self._name}: takes records again, from step {step} on")
                fails = False
        if tracker is not None:
            try:
                tracker.close()
            except Exception as error:
                self._complain(error)

    def _complain(self, error: Exception) -> bool:
        self._say(f"{self._name}: {error}; training goes on without it")
        return True
