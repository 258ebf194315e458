"""Show a run's progress: a live bar on a terminal, one line per record in a log."""

import atexit
from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_REFRESHES_PER_SECOND = 2


class RunProgress:
    """Show records and messages on standard error."""

    def __init__(self, stage: str, num_steps: int, step: int, console: Console | None = None) -> None:
        """Begin after `step`; draw a bar if the console is a terminal."""
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (TextColumn(stage), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self._console, refresh_per_second=_REFRESHES_PER_SECOND)
            self._task = self._bar.add_task("", total=num_steps, completed=step)
            self._bar.start()
            # Restore the terminal's cursor if the run ends with an error.
            atexit.register(self._bar.stop)

    def advance(self, step: int) -> None:
        """Show that a step is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(self, record: Mapping[str, Any]) -> None:
        """Show a training record on the bar, any other as a line."""
        if self._bar is not None and record["kind"] == "train":
            self._bar.update(self._task, completed=record["step"], description="  ".join(_train_parts(record)))
        else:
            self.say(progress_line(record))

    def say(self, line: str) -> None:
        """Show a line unchanged, above the bar if there is one."""
        self._console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        """Stop the bar and leave it on the screen."""
        if self._bar is not None:
            self._bar.stop()
            atexit.unregister(self._bar.stop)


def progress_line(record: Mapping[str, Any]) -> str:
    """Return a record as one readable line."""
    parts = _valid_parts(record) if record["kind"] == "valid" else _train_parts(record)
    return f"{record['stage']} {record['step']:>6}/{record['steps']}  {'  '.join(parts)}"


def _train_parts(record: Mapping[str, Any]) -> Iterator[str]:
    for name, label in (("lm_loss", "lm"), ("alignment_loss", "align")):
        if name in record:
            yield f"{label} {record[name]:.4f}"
    yield f"lr {record['learning_rate']:.2e}"
    if "gradient_norm" in record:
        yield f"grad {record['gradient_norm']:.3f}"
    yield f"{record['tokens_per_second']:,.0f} tok/s"
    if "mfu" in record:
        yield f"MFU {record['mfu']:.1%}"
    yield f"left {_duration(record['seconds_left'])}"


def _duration(seconds: float) -> str:
    """Write a duration in its two greatest units."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def _valid_parts(record: Mapping[str, Any]) -> Iterator[str]:
    if "loss" in record:
        yield "validation loss"
        yield from (f"{language} {loss:.4f}" for language, loss in record["loss"].items())
    for name, pairs in record.get("retrieval", {}).items():
        yield f"retrieval of {name.replace('_', '-')} words"
        yield from (f"{languages} {mean(scores['p_at_1']):.3f}" for languages, scores in pairs.items())
