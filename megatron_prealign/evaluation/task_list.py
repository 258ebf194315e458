"""Tasks: an evaluation each with its options, as the command line and lists in YAML give them."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from megatron_prealign.config.conversion import convert, did_you_mean
from megatron_prealign.config.sources import Entry, Given, read_entries
from megatron_prealign.evaluation.frame import Evaluation
from megatron_prealign.evaluation.registry import evaluation_names, find_evaluation, option_types

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Task:
    """One evaluation to run."""

    name: str
    """Unique among the tasks of a run; results are found by it."""
    kind: str
    """Name of the evaluation."""
    options: Any
    """An instance of the evaluation's options."""
    place: str = ""
    """Where it was asked for; empty on the command line, whose problems name their option themselves."""

    @property
    def evaluation(self) -> Evaluation[Any]:
        """Return what runs it."""
        return find_evaluation(self.kind)

    def options_as_json(self) -> dict[str, Any]:
        """Return the options as a results file holds them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self.options)))
        return plain

    def problems(self) -> list[str]:
        """Return everything wrong with its inputs."""
        prefix = f"{self.place}: {self.name}: " if self.place else ""
        return [prefix + problem for problem in self.evaluation.check(self.options)]


def read_tasks(path: str, problems: list[str]) -> list[Task]:
    """Read a list of tasks; what is wrong with the file goes to `problems`.

    Args:
        path: YAML, a list of mappings: `evaluation`, its options, and `name` where it is not to be the evaluation's.
        problems: takes unknown evaluations and options, wrong types, and tasks that share a name.
    """
    entries, found = read_entries(path)
    problems += found
    if not entries and not found:
        problems.append(f"{path}: names no task; write a list of mappings, each like `- evaluation: NAME`")
    return [task for task in (make_task(entry, problems) for entry in entries) if task is not None]


def make_task(entry: Entry, problems: list[str]) -> Task | None:
    """Make the task that a mapping describes; None, with the reasons in `problems`, where it describes none."""
    given = dict(entry.fields)
    kind_entry, name_entry = given.pop("evaluation", None), given.pop("name", None)
    if kind_entry is None:
        problems.append(f"{entry.place}: no evaluation is named; write `evaluation: NAME`, known are {_known()}")
        return None
    kind = str(kind_entry.value)
    if kind not in evaluation_names():
        hint = did_you_mean(kind, evaluation_names())
        problems.append(f"{kind_entry.place(())}: there is no evaluation {kind!r}{hint}; known are {_known()}")
        return None
    name = kind if name_entry is None else str(name_entry.value)
    if name_entry is not None and not _NAME.fullmatch(name):
        problems.append(f"{name_entry.place(())}: name {name!r}: write letters, digits, _, . and -")
    options = _make_options(kind, given, entry.place, problems)
    return None if options is None else Task(name, kind, options, entry.place)


def _make_options(kind: str, given: dict[str, Given], place: str, problems: list[str]) -> Any:
    """Convert what is given to an evaluation's options; bad values stay at their defaults, None where there is none."""
    evaluation = find_evaluation(kind)
    types = option_types(evaluation)
    values: dict[str, object] = {}
    for name, entry in given.items():
        if name not in types:
            hint = did_you_mean(name, types) or f"; its options are {', '.join(types)}"
            problems.append(f"{entry.place(())}: {kind} has no option {name}{hint}")
            continue
        value, wrong = convert(name, types[name], entry)
        problems += wrong
        if not wrong:
            values[name] = value
    needed = {field.name for field in fields(evaluation.options) if field.default is field.default_factory is MISSING}
    problems += [f"{place}: {kind} needs {name}; give it" for name in types if name in needed - given.keys()]
    return evaluation.options(**values) if needed <= values.keys() else None


def check_tasks(tasks: Sequence[Task]) -> list[str]:
    """Return everything wrong with tasks that are to run together: shared names, and problems of their inputs."""
    found = []
    for name, count in Counter(task.name for task in tasks).items():
        if count > 1:
            places = ", ".join(task.place or "the command line" for task in tasks if task.name == name)
            found.append(f"{count} tasks are called {name} ({places}): give each a `name` of its own")
    # Tasks often read the same files.
    return [*found, *dict.fromkeys(problem for task in tasks for problem in task.problems())]


def _known() -> str:
    return ", ".join(evaluation_names())
