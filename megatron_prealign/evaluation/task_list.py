"""The evaluations by name, and tasks: evaluations with their options, from the command line or a list in YAML.

Each evaluation is a file of `megatron_prealign/evaluation/kinds/`.
"""

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from megatron_prealign.config.conversion import convert, did_you_mean
from megatron_prealign.config.sources import Entry, Given, read_entries
from megatron_prealign.errors import ConfigError
from megatron_prealign.evaluation import kinds
from megatron_prealign.evaluation.frame import Evaluation

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def evaluation_names() -> list[str]:
    """Return the names of all evaluations, sorted; none of them is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(kinds.__path__))


def find_evaluation(name: str) -> Evaluation[Any]:
    """Return an evaluation of `evaluation_names`."""
    evaluation = getattr(_module(name), "EVALUATION", None)
    if not isinstance(evaluation, Evaluation):
        raise ConfigError(f"{_file(name)}: no EVALUATION is defined; set it to an instance of frame.Evaluation")
    return evaluation


def option_types(evaluation: Evaluation[Any]) -> dict[str, object]:
    """Return the types of an evaluation's options by name."""
    return get_type_hints(evaluation.options, include_extras=True)


def summary(name: str) -> str:
    """Return what an evaluation measures: the first line of its file."""
    text = _module(name).__doc__
    if not text:
        raise ConfigError(f"{_file(name)}: has no docstring; begin the file with one that says what it measures")
    return text.splitlines()[0]


def describe_options(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield (option, default, meaning) of an evaluation; the default of a required option is "required"."""
    options = find_evaluation(name).options
    meanings = _field_strings(options)
    for field in fields(options):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        shown = "required" if default is MISSING else "none" if default is None else repr(default)
        yield field.name, shown, meanings.get(field.name, "")


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{kinds.__name__}.{name}")
    except SyntaxError as error:
        raise ConfigError(f"{_file(name)}:{error.lineno}: {error.msg}") from None


def _file(name: str) -> Path:
    return Path(kinds.__path__[0], f"{name}.py")


def _field_strings(options: type) -> dict[str, str]:
    """Return the string below each field of a dataclass, which Python does not keep."""
    (definition,) = ast.parse(inspect.getsource(options)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


@dataclass(frozen=True)
class Task:
    """One evaluation to run."""

    name: str
    """Unique within a run; the key of its results."""
    kind: str
    """Name of the evaluation."""
    options: Any
    """An instance of the evaluation's options."""
    place: str = ""
    """File and line; empty for the command line, whose messages name the option."""

    @property
    def evaluation(self) -> Evaluation[Any]:
        """Return the evaluation."""
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
    """Read a list of tasks; unknown evaluations and options and wrong types are added to `problems`.

    Args:
        path: YAML list of mappings: `evaluation`, its options, and optionally `name`.
        problems: the list to add to.
    """
    entries, found = read_entries(path)
    problems += found
    if not entries and not found:
        problems.append(f"{path}: no task; write a list of mappings, each like `- evaluation: NAME`")
    return [task for task in (make_task(entry, problems) for entry in entries) if task is not None]


def make_task(entry: Entry, problems: list[str]) -> Task | None:
    """Make the task that a mapping describes, or return `None` after adding the reasons to `problems`."""
    given = dict(entry.fields)
    kind_entry, name_entry = given.pop("evaluation", None), given.pop("name", None)
    if kind_entry is None:
        problems.append(f"{entry.place}: no evaluation is named; write `evaluation: NAME` with one of {_known()}")
        return None
    kind = str(kind_entry.value)
    if kind not in evaluation_names():
        hint = did_you_mean(kind, evaluation_names())
        problems.append(f"{kind_entry.place(())}: unknown evaluation {kind!r}{hint}; known are {_known()}")
        return None
    name = kind if name_entry is None else str(name_entry.value)
    if name_entry is not None and not _NAME.fullmatch(name):
        problems.append(f"{name_entry.place(())}: name {name!r}: use only letters, digits, _, . and -")
    options = _make_options(kind, given, entry.place, problems)
    return None if options is None else Task(name, kind, options, entry.place)


def _make_options(kind: str, given: dict[str, Given], place: str, problems: list[str]) -> Any:
    """Return an evaluation's options, bad values left at their defaults; `None` if a required one is missing or bad."""
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
    problems += [f"{place}: {kind} needs the option {name}" for name in types if name in needed - given.keys()]
    return evaluation.options(**values) if needed <= values.keys() else None


def check_tasks(tasks: Sequence[Task]) -> list[str]:
    """Return every problem of the tasks of one run: names used twice, and problems of their inputs."""
    found = []
    for name, count in Counter(task.name for task in tasks).items():
        if count > 1:
            places = ", ".join(task.place or "the command line" for task in tasks if task.name == name)
            found.append(f"{count} tasks have the name {name} ({places}): give each its own `name`")
    # Several tasks often read the same files.
    return [*found, *dict.fromkeys(problem for task in tasks for problem in task.problems())]


def _known() -> str:
    return ", ".join(evaluation_names())
