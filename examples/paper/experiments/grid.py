"""The local launcher: cells side by side, with progress and time left; finished ones are kept whatever happens."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from examples.paper.experiments.cells import Cell, Result, is_finished, read_result
from examples.paper.experiments.chain import Place, cell_steps, data_steps
from examples.steps import Runner, Step, format_seconds
from megatron_prealign.config import config_from_dict, count_parameters
from megatron_prealign.errors import DataError, PrealignError

FAILURES = "failures.jsonl"
FAILURE_KEYS = {"date", "cell", "users", "seed", "seconds", "command", "reason"}


def weight(cell: Cell, config: Mapping[str, Any] | None = None) -> float:
    """Return what a cell costs beside others, tokens times parameters; with the scale's configuration where given."""
    model = config_from_dict(config or cell.stages[-1].config).model
    return float(cell.tokens) * count_parameters(model, int(getattr(cell.recipe, "vocab_size", 0)) or 8000)


@dataclass(frozen=True)
class Estimate:
    """How long cells take: as the finished ones did, else as the scale says."""

    cells: Sequence[Cell]
    results: Mapping[str, Result]
    jobs: int

    def seconds(self, cell: Cell) -> float:
        """Return the seconds of one cell, with as many others beside it as jobs run."""
        finished = [other for other in self.cells if other.key in self.results]
        if not finished:
            return cell.scale.minutes * 60 * weight(cell) / weight(cell, cell.scale.config)
        total = sum(self.results[other.key].made["seconds"] for other in finished)
        return float(total) * weight(cell) / sum(map(weight, finished))

    def left(self, cells: Sequence[Cell]) -> float:
        """Return the seconds until all of some cells are done."""
        return sum(map(self.seconds, cells)) / max(1, min(self.jobs, len(cells)))


def hours(seconds: float) -> str:
    """Return a duration for people."""
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def show_cells(cells: Sequence[Cell], results: Mapping[str, Result], jobs: int, console: Console) -> None:
    """List cells: which are finished, and how long the others take."""
    estimate = Estimate(cells, results, jobs)
    table = Table("cell", "experiment", "variant", "seed", "state")
    for cell in cells:
        state = f"{round(estimate.seconds(cell) / 60)} min"
        if cell.key in results:
            missing = results[cell.key].missing_tasks(cell)
            state = f"lacks {', '.join(missing)}" if missing else "finished"
        for number, (experiment, variant) in enumerate(dict.fromkeys(cell.users)):
            shown = (cell.key, experiment, variant, str(cell.seed), state)
            table.add_row(*(shown if number == 0 else ("", experiment, variant, str(cell.seed), "the same")))
    console.print(table)
    left = [cell for cell in cells if not is_finished(cell, results)]
    console.print(
        f"{len(cells)} cells, {len(cells) - len(left)} finished; the others take about "
        f"{hours(estimate.left(left)) if left else '0 min'} with {jobs} side by side.",
        highlight=False,
    )


class Grid:
    """Runs cells on this machine."""

    def __init__(self, cells: Sequence[Cell], results: Mapping[str, Result], place: Place, runner: Runner) -> None:
        """Run those of `cells` that `results` lacks; `runner` runs their commands."""
        self.results = dict(results)
        self.failed: dict[str, str] = {}
        self._cells, self._place, self._runner = cells, place, runner
        self._started: dict[str, float] = {}
        self._lock = threading.Lock()

    def run(self, jobs: int, finished: Callable[[Mapping[str, Result]], None] = lambda results: None) -> None:
        """Run all cells; a cell that fails does not stop the others.

        Args:
            jobs: cells side by side.
            finished: called after each cell with the results so far, never twice at once.
        """
        left = [cell for cell in self._cells if not is_finished(cell, self.results)]
        self._say(f"{len(self._cells) - len(left)} of {len(self._cells)} cells are finished already")
        self.make_data(left)
        chains = {cell.title: self._chain(cell, jobs, finished) for cell in left}
        failed = {cell.title: cell for cell in left}
        self._runner.run_side_by_side(chains, jobs, lambda title, error: self._fail(failed[title], error))

    def make_data(self, cells: Sequence[Cell]) -> None:
        """Make the data of cells, before any of them runs."""
        steps = {step.name: step for cell in cells for step in data_steps(cell, self._place)}
        self._runner.run_all(steps.values(), "data")

    def _chain(self, cell: Cell, jobs: int, finished: Callable[[Mapping[str, Result]], None]) -> Iterator[Step]:
        """Yield the steps of a cell, and say how it goes."""
        self._say(f"{self._number(cell)}: started")
        self._started[cell.key] = start = time.monotonic()
        yield from cell_steps(cell, self._place, self._runner)
        result = read_result(self._place.results, cell.key)
        assert result is not None
        with self._lock:
            self.results[cell.key] = result
            left = [other for other in self._cells if not is_finished(other, self.results)]
            left = [other for other in left if other.key not in self.failed]
            estimate = Estimate(self._cells, self.results, jobs).left(left)
            finished(self.results)
        self._say(
            f"{self._number(cell)}: finished in {format_seconds(time.monotonic() - start)}; {len(left)} cells left"
            + (f", about {hours(estimate)}" if left else "")
        )

    def _fail(self, cell: Cell, error: Exception) -> None:
        """Keep a failure for the log, of whatever kind: it stops no other cell."""
        if is_finished(cell, self.results):
            raise error  # a page could not be written
        reason = str(error) if isinstance(error, PrealignError | OSError) else f"{type(error).__name__}: {error}"
        with self._lock:
            self.failed[cell.key] = reason
            path = self._place.results / FAILURES
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "cell": cell.key,
                "users": [list(user) for user in dict.fromkeys(cell.users)],
                "seed": cell.seed,
                "seconds": round(time.monotonic() - self._started[cell.key], 1),
                "command": self._place.command,
                "reason": reason,
            }
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
        self._say(f"{self._number(cell)}: failed: {reason}")

    def _number(self, cell: Cell) -> str:
        return f"[{self._cells.index(cell) + 1}/{len(self._cells)}] {cell.title}"

    def _say(self, text: str) -> None:
        clock = datetime.now(UTC).strftime("%H:%M:%S")
        self._runner.console.print(f"{clock} {text}", soft_wrap=True, highlight=False, markup=False)


def read_failures(results: Path) -> list[dict[str, Any]]:
    """Return what failed, oldest first.

    Raises:
        DataError: a line is damaged.
    """
    path = results / FAILURES
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            is_whole = record.keys() >= FAILURE_KEYS
        except (ValueError, AttributeError):
            is_whole = False
        if not is_whole:
            raise DataError(f"{path}:{number}: no record of a failure; remove the line")
        records.append(record)
    return records
