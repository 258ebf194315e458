"""A cell of the grid: one variant with one seed, known by a hash of what its numbers depend on; and its file.

The hash covers the chain of stages with their configurations, the parameters of the data and the seed: no paths and
no machine. So experiments share cells, and a finished cell's file stands for it on any machine.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.paper.experiments.recipes import Recipe, digest, make_recipe
from examples.paper.experiments.specs import Experiment, Scale, Stage, task_name
from examples.steps import write_json
from megatron_prealign.errors import DataError

FORMAT = 1
"""Of identities; another one makes all cells new."""

INCIDENTAL_SECTIONS = ("checkpoint", "logging", "parallel")
INCIDENTAL_FIELDS = ("device", "eval_interval", "eval_steps", "micro_batch_size")


@dataclass
class Cell:
    """One training with its evaluations."""

    scale: Scale
    recipe_name: str
    recipe: Recipe
    stages: tuple[Stage, ...]
    seed: int
    tasks: list[dict[str, Any]]
    """Of all experiments that it belongs to, by name."""
    users: list[tuple[str, str]] = field(default_factory=list)
    """(experiment, variant) that it belongs to."""

    @property
    def tokens(self) -> int:
        """Tokens that it sees, of words too."""
        return self.scale.steps * self.scale.step_tokens

    def identity(self, num_stages: int | None = None) -> dict[str, Any]:
        """Return what the numbers depend on, of the first stages only where told."""
        stages = self.stages[:num_stages]
        described = [{"text": stage.text, "steps": stage.steps, "config": essence(stage.config)} for stage in stages]
        return {
            "format": FORMAT,
            "recipe": self.recipe_name,
            "data": self.recipe.identity(stages),
            "stages": described,
            "tokens": self.tokens if stages[-1].steps is None else None,
            "seed": self.seed,
        }

    @property
    def key(self) -> str:
        """Return the cell's name, made from its identity."""
        return digest(self.identity())

    @property
    def title(self) -> str:
        """Return the first experiment and variant with the seed, for people."""
        experiment, variant = self.users[0]
        return f"{experiment} {variant} seed {self.seed}"


def essence(config: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a stage's configuration without what only says where it runs, and what is recorded on the way."""
    kept = {section: dict(fields) for section, fields in config.items() if section not in INCIDENTAL_SECTIONS}
    for name in INCIDENTAL_FIELDS:
        kept.get("training", {}).pop(name, None)
    return kept


def task_key(task: Mapping[str, Any]) -> str:
    """Return a hash of a task's options."""
    return digest(task)


def make_cells(experiments: Sequence[Experiment], scale: Scale, seeds: Iterable[int]) -> list[Cell]:
    """Return the cells of experiments in the order in which they run, each once.

    Raises:
        DataError: a recipe's parameters are wrong, or two experiments give one task name different options.
    """
    cells: dict[str, Cell] = {}
    problems: list[str] = []
    for experiment in experiments:
        for seed in seeds:
            for variant in experiment.variants.values():
                place = f"{experiment.name}: variants.{variant.name}"
                try:
                    texts = [stage.text for stage in variant.stages]
                    recipe = make_recipe(experiment.file.recipe, variant.data, texts, place)
                except DataError as error:
                    problems += error.problems
                    continue
                made = Cell(scale, experiment.file.recipe, recipe, variant.stages, seed, [])
                cell = cells.setdefault(made.key, made)
                cell.users.append((experiment.name, variant.name))
                problems += _add_tasks(cell, experiment)
                problems += [f"{experiment.name}: {problem}" for problem in _file_problems(cell)]
    if problems:
        raise DataError(list(dict.fromkeys(problems)))
    return list(cells.values())


def _file_problems(cell: Cell) -> list[str]:
    try:
        fill(cell.tasks, cell.recipe.files(Path()))
    except DataError as error:
        return error.problems
    return []


def fill(value: Any, files: Mapping[str, str]) -> Any:
    """Put the files of a recipe where a task names them in braces.

    Raises:
        DataError: a name that the recipe does not have.
    """
    if isinstance(value, dict):
        return {key: fill(inner, files) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, files) for inner in value]
    if not isinstance(value, str):
        return value
    try:
        return value.format_map(files)
    except (KeyError, ValueError, IndexError):
        raise DataError(f"evaluations: {value!r}: write one of {', '.join(f'{{{name}}}' for name in files)}") from None


def _add_tasks(cell: Cell, experiment: Experiment) -> list[str]:
    known = {task_name(task): task for task in cell.tasks}
    problems = []
    for task in experiment.evaluations:
        name = task_name(task)
        if name in known and task_key(known[name]) != task_key(task):
            problems.append(f"{experiment.name}: the task {name} has other options in {cell.users[0][0]}: rename it")
        elif name not in known:
            cell.tasks.append(task)
    return problems


@dataclass(frozen=True)
class Result:
    """What a cell's file says."""

    key: str
    identity: dict[str, Any]
    tasks: dict[str, str]
    """Task → hash of its options."""
    measures: dict[str, float]
    """TASK.PATH.IN.ITS.RESULTS → number; the mean of what has a value a tap."""
    by_tap: dict[str, list[float]]
    """The same keys → values tap by tap, where there are some."""
    curves: dict[str, list[list[float]]]
    """Measure of the validations → [tokens, value] pairs."""
    made: dict[str, Any]
    """When, how long, with what."""

    def missing_tasks(self, cell: Cell) -> list[str]:
        """Return the tasks of a cell that this file has no numbers of."""
        return [task_name(task) for task in cell.tasks if self.tasks.get(task_name(task)) != task_key(task)]


def result_path(results: Path, key: str) -> Path:
    """Return the file of a cell."""
    return results / f"{key}.json"


def write_result(results: Path, result: Result) -> None:
    """Write a cell's file at once."""
    content = {name: value for name, value in vars(result).items()}
    write_json(result_path(results, result.key), {**content, "checksum": digest(content, 64)})


def read_result(results: Path, key: str) -> Result | None:
    """Read a cell's file; none where there is none.

    Raises:
        DataError: it is damaged, or is another cell's.
    """
    path = result_path(results, key)
    fix = "remove it, and the cell is run again, or restore it"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
        result = Result(**content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path}: no result of a cell; {fix}") from None
    if digest(content, 64) != checksum:
        raise DataError(f"{path}: its content does not fit its checksum; {fix}")
    if result.key != key or digest(result.identity) != key:
        raise DataError(f"{path}: holds the cell {result.key}; {fix}")
    return result


def read_results(results: Path, cells: Sequence[Cell]) -> dict[str, Result]:
    """Read the files of all cells that have one.

    Raises:
        DataError: naming every file that is damaged.
    """
    found: dict[str, Result] = {}
    problems = []
    for cell in cells:
        try:
            result = read_result(results, cell.key)
        except DataError as error:
            problems += error.problems
            continue
        if result:
            found[cell.key] = result
    if problems:
        raise DataError(problems)
    return found


def is_finished(cell: Cell, results: Mapping[str, Result]) -> bool:
    """Tell whether a cell has all its numbers."""
    return cell.key in results and not results[cell.key].missing_tasks(cell)
