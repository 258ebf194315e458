"""Where the numbers of a run go: metrics.jsonl, TensorBoard, and one progress line a record."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

Record = dict[str, Any]


class MetricsWriter:
    """Writes records; made on one rank only."""

    def __init__(self, run_path: str | Path, stage: str, num_steps: int, tensorboard: bool) -> None:
        """Append to the run's files; records of a run that is continued follow those before."""
        run = Path(run_path)
        run.mkdir(parents=True, exist_ok=True)
        self._stage = stage
        self._num_steps = num_steps
        self._start = time.monotonic()
        self._file = (run / "metrics.jsonl").open("a", encoding="utf-8")
        self._tensorboard = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(run / "tensorboard"))

    def write(self, kind: str, record: Record) -> None:
        """Write one record with its step, and print its line on standard error."""
        seconds = round(time.monotonic() - self._start, 3)
        whole = {"kind": kind, "stage": self._stage, "steps": self._num_steps, **record, "seconds": seconds}
        self._file.write(json.dumps(whole) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in scalars(record):
                self._tensorboard.add_scalar(f"{kind}/{name}", value, record["step"])
        print(progress_line(whole), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Flush and close everything."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """Yield a record's numbers as flat names; lists and mappings become one name an element."""
    for name, value in record.items():
        if name != "step":
            yield from _flatten(name, value)


def _flatten(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(f"{name}/{key}", item)
    elif isinstance(value, list):
        yield from _flatten(name, dict(enumerate(value)))
    elif value is not None:
        yield name, float(value)


def progress_line(record: Record) -> str:
    """Return the line that tells a person how the run stands."""
    head = f"{record['stage']} {record['step']:>6}/{record['steps']}"
    if record["kind"] == "valid":
        return f"{head}  {'  '.join(_valid_parts(record))}"
    parts = []
    for name, label in (("lm_loss", "lm"), ("alignment_loss", "align")):
        if name in record:
            parts.append(f"{label} {record[name]:.4f}")
    parts.append(f"lr {record['learning_rate']:.2e}")
    parts.append(f"grad {record['gradient_norm']:.3f}")
    parts.append(f"{record['tokens_per_second']:,.0f} tok/s")
    minutes, seconds = divmod(round((record["steps"] - record["step"]) * record["step_seconds"]), 60)
    parts.append(f"left {minutes}m{seconds:02d}s")
    return f"{head}  {'  '.join(parts)}"


def _valid_parts(record: Record) -> Iterator[str]:
    if "loss" in record:
        yield "validation loss"
        yield from (f"{language} {loss:.4f}" for language, loss in record["loss"].items())
    for name, pairs in record.get("retrieval", {}).items():
        yield f"retrieval of {name.replace('_', '-')} words"
        yield from (f"{languages} {mean(scores['p_at_1']):.3f}" for languages, scores in pairs.items())
