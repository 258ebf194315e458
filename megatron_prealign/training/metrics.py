"""Write a run's metrics to metrics.jsonl, to trackers and to the terminal.

A terminal gets a live bar, a log one line per record.
"""

import atexit
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from megatron_prealign.config import Config
from megatron_prealign.reports.records import METRICS
from megatron_prealign.training.record_file import RecordFile
from megatron_prealign.training.trackers import open_trackers

Record = dict[str, Any]

_REFRESHES_PER_SECOND = 2


class MetricsWriter:
    """Writes records; create it on one rank only."""

    def __init__(self, config: Config, step: int) -> None:
        """Open the files and trackers of a run that resumes after `step`."""
        training = config.training
        run_path = Path(training.run_path)
        self._common = {"stage": training.stage, "steps": training.train_steps}
        self._first_step = step
        self._start = time.monotonic()
        self._progress = RunProgress(training.stage, training.train_steps, step)
        # All messages go through the progress bar, so that they do not break it.
        self.advance, self.say = self._progress.advance, self._progress.say
        self._file = RecordFile(run_path / METRICS, step, self.say)
        self._trackers = open_trackers(config, step, self.say)

    def write(self, kind: str, record: Record) -> None:
        """Write one record with its step, and show it."""
        seconds = time.monotonic() - self._start
        whole = {"kind": kind, **self._common, **record, "seconds": round(seconds, 3)}
        if kind == "train":
            # Include validations and checkpoints: the rest of the run has them at the same rate.
            steps_left, steps_done = whole["steps"] - record["step"], record["step"] - self._first_step
            whole["seconds_left"] = round(seconds * steps_left / steps_done, 3)
        self._file.write(whole)
        numbers = {f"{kind}/{name}": value for name, value in scalars(whole)}
        for tracker in self._trackers:
            tracker.log(numbers, record["step"])
        self._progress.show(whole)

    def close(self) -> None:
        """Flush and close everything."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()
        self._progress.close()


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """Yield a record's numbers under flat names, one per element, without step and steps."""
    for name, value in record.items():
        if name not in ("step", "steps"):
            yield from _flatten(name, value)


def _flatten(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(f"{name}/{key}", item)
    elif isinstance(value, list):
        yield from _flatten(name, dict(enumerate(value)))
    elif isinstance(value, int | float):
        yield name, float(value)


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
