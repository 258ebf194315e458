"""Progress of the bake on stderr: a live bar on a terminal, a line now and then in a log."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class BakeProgress:
    """Shows documents, MB/s and tokens/s, and how long it will take."""

    def __init__(self, total_bytes: int, console: Console | None = None, show: bool = True) -> None:
        """Begin.

        Args:
            total_bytes: Size of all input on disk.
            console: Where to; None for stderr.
            show: False shows nothing.
        """
        self._console = console or Console(stderr=True)
        self._total = total_bytes
        self._show = show
        self._start = self._last_line = time.monotonic()
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        is_live = show and self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True) if is_live else None
        self._task = self._bar.add_task("starting", total=total_bytes) if self._bar else None

    def update(self, consumed: int, num_documents: int, num_tokens: int) -> None:
        """Show where the bake is.

        Args:
            consumed: Bytes of input read.
            num_documents: Documents written.
            num_tokens: Tokens written.
        """
        if not self._show:
            return
        now = time.monotonic()
        seconds = max(now - self._start, 1e-9)
        speed = (
            f"{num_documents:,} documents  {consumed / seconds / 1e6:.1f} MB/s  {num_tokens / seconds:,.0f} tokens/s"
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=consumed, description=speed)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            share = consumed / max(self._total, 1)
            left = seconds * (1 - share) / max(share, 1e-9)
            self._console.print(f"bake: {share:.0%}  {speed}  {left:,.0f} s left", highlight=False)

    def __enter__(self) -> Self:
        """Start the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
