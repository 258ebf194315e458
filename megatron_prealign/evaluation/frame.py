"""What an evaluation is: options, a check of its inputs, and a function from a model to numbers."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Protocol, TypeVar

from pydantic import BeforeValidator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from megatron_prealign.errors import PrealignError
from megatron_prealign.evaluation.folder import ModelFolder

Results = dict[str, Any]
"""JSON values: names to numbers, lists of numbers by tap, or further names."""

Paths = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
"""Type of an option that is a file, a folder or a glob, or a list of them."""


class Progress(Protocol):
    """Called with the steps done and the number of steps of one part of an evaluation."""

    def __call__(self, done: int, total: int, part: str = "") -> None:
        """Show the progress; `part` is, for example, a language."""


OptionsT = TypeVar("OptionsT")


@contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Show progress on stderr: a bar on a terminal, otherwise a line per tenth of the work."""
    console = Console(stderr=True)
    if not console.is_terminal:
        tenths: dict[str, int] = {}

        def line(done: int, total: int, part: str = "") -> None:
            if done * 10 // total > tenths.get(part, 0):
                tenths[part] = done * 10 // total
                print(f"{f'{title} {part}'.strip()}: {done}/{total}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console) as bars:
        shown: dict[str, TaskID] = {}

        def bar(done: int, total: int, part: str = "") -> None:
            if part not in shown:
                shown[part] = bars.add_task(f"{title} {part}")
            bars.update(shown[part], completed=done, total=total)

        yield bar


@dataclass(frozen=True)
class Evaluation(Generic[OptionsT]):
    """One file of `megatron_prealign/evaluation/kinds/`; its name is the file's."""

    options: type[OptionsT]
    """Frozen dataclass with a string below each field, which --list shows."""
    check: Callable[[OptionsT], Iterable[str]]
    """Every problem of the inputs with its fix; called before a model is loaded."""
    run: Callable[[ModelFolder, OptionsT, Progress], Results]
    """Measure; raises PrealignError for problems that only the model and its tokenizer reveal."""
    tables: Callable[[str, Results], Iterable[Table]] | None = None
    """Tables for the terminal, from the task's name and its results; `None` = one line per number."""


def problems_of(read: Callable[[], object]) -> list[str]:
    """Return the problems that a function raises, for use in a check."""
    try:
        read()
    except PrealignError as error:
        return error.problems
    return []


def finite_exp(value: float) -> float | None:
    """Return e^value; `None` if it is NaN or too large for a float, because JSON can't hold it."""
    try:
        result = math.exp(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def cell(value: float | None, form: str = ".3f") -> str:
    """Format a number for a table; "-" where there is none."""
    return "-" if value is None else format(value, form)


def as_title(name: str) -> str:
    """Return a task's name as the title of a table."""
    return name.replace("_", " ").capitalize()


def plain_table(name: str, results: Mapping[str, Any]) -> Table:
    """Return a table with one row per number, named by its keys."""
    table = Table("", "value", title=name)
    for keys, value in _leaves(results):
        table.add_row(" ".join(keys), value)
    return table


def _leaves(results: Mapping[str, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in results.items():
        path = (*keys, str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            values = value if isinstance(value, list) else [value]
            yield path, " ".join(f"{one:.4g}" if isinstance(one, float) else str(one) for one in values)


def best_taps_table(
    title: str, pairs: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str], count: str
) -> Table:
    """Return a table with one row per pair of languages, each score at the tap where it is highest.

    Args:
        title: title of the table.
        pairs: scores by pair, lists by tap.
        columns: headings by score.
        count: name of the number in the first column.
    """
    table = Table("pair", "number", *columns.values(), title=f"{title}: each score at its best tap")
    for pair, row in pairs.items():
        best = [max((value for value in row[name] if value is not None), default=None) for name in columns]
        table.add_row(pair, f"{row[count]:,}", *map(cell, best))
    return table
