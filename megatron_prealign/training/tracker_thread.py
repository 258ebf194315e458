"""Run a tracker in its own thread, so that a service that fails or hangs neither stops nor delays training."""

from collections.abc import Callable, Mapping
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

_MOST_WAITING = 1000
"""Longest queue of records for a slow service; bounds memory."""


class Tracker(Protocol):
    """One service that shows a run's metrics."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send the numbers of one record."""
        ...

    def close(self) -> None:
        """Send what is buffered and end the run."""
        ...


class TrackerThread:
    """Pass records to a service; a record it does not accept is missing only there."""

    def __init__(
        self, name: str, open_tracker: Callable[[], Tracker], say: Callable[[str], None], close_seconds: float = 60.0
    ) -> None:
        """Open the service `name`; if that fails, retry with each record. `say` shows a line on the terminal."""
        self._name = name
        self._open = open_tracker
        self._say = say
        self._close_seconds = close_seconds
        self._lacks_records = False
        self._records: SimpleQueue[tuple[Mapping[str, float], int] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Queue the numbers of one record; return at once."""
        if self._records.qsize() < _MOST_WAITING:
            self._records.put((numbers, step))
        else:
            self._lacks_records = True

    def close(self) -> None:
        """Wait for the queue, at most `close_seconds`, and report missing records."""
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
        except Exception as error:  # each library raises its own types
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
                    self._say(f"{self._name}: accepts records again from step {step}")
                fails = False
        if tracker is not None:
            try:
                tracker.close()
            except Exception as error:
                self._complain(error)

    def _complain(self, error: Exception) -> bool:
        self._say(f"{self._name}: {error}; training continues without it")
        return True
