"""Write a run's metrics to metrics.jsonl, to trackers and to the terminal."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_prealign.config import Config
from megatron_prealign.reports.records import METRICS
from megatron_prealign.training.progress import RunProgress
from megatron_prealign.training.record_file import RecordFile
from megatron_prealign.training.trackers import open_trackers

Record = dict[str, Any]


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
