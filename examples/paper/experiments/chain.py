"""The steps of a cell: its stages one after the other, the export, the evaluation, and the cell's file."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from statistics import mean
from typing import Any

import yaml

from examples.commands import last_tokens, make_export, make_step, make_training
from examples.paper.english_clone.comparison import join_stages
from examples.paper.experiments.cells import Cell, Result, fill, read_result, task_key, write_result
from examples.paper.experiments.recipes import digest
from examples.paper.experiments.specs import task_name
from examples.steps import REPOSITORY, Runner, Step, count_cores, write_text
from megatron_prealign.dataset.manifest import read_manifest
from megatron_prealign.errors import DataError
from megatron_prealign.reports.records import METRICS, read_records, value_at

PACKAGES = ("torch", "megatron-core", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class Place:
    """Where a grid keeps what it makes."""

    output: Path
    """Data, runs and models."""
    results: Path
    """Files of finished cells."""
    packages: Path | None = None
    """Downloads already made."""
    command: str = ""
    """Command line that repeats the cells, without paths of this machine."""

    @property
    def data(self) -> Path:
        """Folder of all recipes."""
        return self.output / "data"


def data_steps(cell: Cell, place: Place) -> list[Step]:
    """Return the steps that make a cell's data."""
    return cell.recipe.steps(place.data, place.packages, cell.stages)


def cell_steps(cell: Cell, place: Place, runner: Runner) -> Iterator[Step]:
    """Yield what a cell needs beside its data, each step when the one before is done; at the end write the cell's file.

    Raises:
        DataError: the stages before the last leave no tokens for it.
    """
    # Data has no part in a training's fingerprint: its folder's name says what it is, and other data may come to it.
    steps: list[Step] = []
    for index in range(len(cell.stages)):
        steps.append(training_step(cell, index, place, tuple(steps[-1:])))
        yield steps[-1]
    model = place.output / f"models/{cell.key}"
    steps.append(make_export(f"{cell.key}_export", run_folder(cell, place), model, steps[-1]))
    yield steps[-1]
    evaluation = place.output / f"evaluations/{cell.key}.json"
    steps.append(evaluation_step(cell, place, model, evaluation, steps[-1]))
    yield steps[-1]
    # As measured when each of them ran, in this call, an earlier one or another cell's.
    seconds = sum(map(runner.seconds, steps))
    write_result(place.results, collect(cell, place, evaluation, seconds))


def run_folder(cell: Cell, place: Place, num_stages: int | None = None) -> Path:
    """Return the folder of the last of a cell's first stages; cells that begin alike share it."""
    stages = cell.stages[:num_stages]
    return place.output / f"stages/{len(stages)}_{digest(cell.identity(len(stages)))}"


def training_step(cell: Cell, index: int, place: Place, before: tuple[Step, ...]) -> Step:
    """Make the step that trains one stage; the stages before it have ended."""
    run = run_folder(cell, place, index + 1)
    stage, recipe = cell.stages[index], cell.recipe
    config = {section: dict(fields) for section, fields in stage.config.items()}
    trained, held_out = recipe.lexicons(place.data)
    config["data"] |= {
        "tokenizer_path": str(recipe.tokenizer(place.data)),
        "blend": recipe.blend(place.data, stage.text),
    }
    config["training"] |= {
        "run_path": str(run),
        "seed": cell.seed,
        "train_steps": stage.steps or remaining(cell, place),
    }
    if stage.aligns:
        config.setdefault("alignment", {})["lexicon_paths"] = [str(trained)]
        config["alignment"]["held_out_lexicon_paths"] = [str(held_out)]
    if config["data"].get("codeswitch") == "online":
        config["data"]["codeswitch_lexicon_paths"] = [str(trained)]
    if index:
        config.setdefault("checkpoint", {})["init_from"] = str(run_folder(cell, place, index))
    path = place.output / f"configs/{run.name}.yaml"
    write_if_changed(path, yaml.safe_dump(config, sort_keys=True))
    return make_training(run.name, [path], run, [], *before, processes=cell.scale.processes)


def write_if_changed(path: Path, text: str) -> None:
    """Write a file that is as it should be only once: another grid may be reading it."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def remaining(cell: Cell, place: Place) -> int:
    """Return the steps of the last stage, with which the cell sees its tokens, to within a step; words count.

    Raises:
        DataError: the stages before have used them up, or do not tell how many tokens a word batch has.
    """
    seen = 0
    tokens_an_entry = None
    for index, stage in enumerate(cell.stages[:-1]):
        tokens = last_tokens(run_folder(cell, place, index + 1) / METRICS)
        seen += tokens
        if stage.config["training"]["stage"] == "align_init" and stage.steps:
            lm = _step_tokens(stage.config) if stage.config["alignment"].get("lm_weight", 1.0) else 0
            entries = stage.config["alignment"].get("word_batch_size", 128)
            tokens_an_entry = (tokens / stage.steps - lm) / entries
    last = cell.stages[-1].config
    step_tokens = float(_step_tokens(last))
    if interval := last.get("alignment", {}).get("maintain_interval", 0):
        if tokens_an_entry is None:
            raise DataError(
                f"{cell.title}: alignment in stage 2 needs a stage of align_init before, to count its words"
            )
        step_tokens += tokens_an_entry * last["alignment"].get("word_batch_size", 128) / interval
    steps = round((cell.tokens - seen) / step_tokens)
    if steps < 1:
        raise DataError(
            f"{cell.title}: the stages before the last saw {seen} of {cell.tokens} tokens; lower their steps"
        )
    return steps


def _step_tokens(config: Mapping[str, Mapping[str, Any]]) -> int:
    return int(config["training"]["global_batch_size"]) * int(config["data"]["seq_length"])


def evaluation_step(cell: Cell, place: Place, model: Path, output: Path, exported: Step) -> Step:
    """Make the step that evaluates the exported model with all tasks of the cell.

    It names no output, so that nothing removes the file when tasks have come to it: --resume keeps the others' results.
    """
    tasks = yaml.safe_dump([fill(task, cell.recipe.files(place.data)) for task in cell.tasks], sort_keys=False)
    name = f"{cell.key}_evaluate_{digest(tasks, 6)}"
    path = place.output / f"evaluations/{name}.yaml"
    write_if_changed(path, tasks)
    command = ["tools/evaluate.py", "--model", model, "--tasks", path, "--output", output, "--resume"]
    return make_step(name, command, [], exported, inputs=(path,), is_whole=lambda: has_tasks(output, cell))


def has_tasks(path: Path, cell: Cell) -> bool:
    """Tell whether an evaluation holds the tasks of a cell; a damaged one is removed, to be made anew."""
    if not path.exists():
        return False
    try:
        found = set(read_evaluation(path)["tasks"])
    except (DataError, KeyError, TypeError):
        path.unlink()
        return False
    return found >= {task_name(task) for task in cell.tasks}


def collect(cell: Cell, place: Place, evaluation: Path, seconds: float) -> Result:
    """Gather a cell's numbers.

    Raises:
        DataError: a record or the evaluation can't be read.
    """
    problems: list[str] = []
    folders = [run_folder(cell, place, index + 1) for index in range(len(cell.stages))]
    records = join_stages([read_records(folder / METRICS, problems) for folder in folders])
    if problems:
        raise DataError(problems)
    content = read_evaluation(evaluation)
    measures: dict[str, float] = {}
    by_tap: dict[str, list[float]] = {}
    for name in map(task_name, cell.tasks):
        for key, value in flatten(content["tasks"][name]["results"], name):
            measures[key] = mean(value) if isinstance(value, list) else value
            by_tap |= {key: value} if isinstance(value, list) else {}
    blend = [entry for stage in cell.stages for entry in cell.recipe.blend(place.data, stage.text)]
    datasets = {Path(entry["prefix"]).name: read_manifest(entry["prefix"]).content_hash[:12] for entry in blend}
    made = {
        "model": content["model_sha256"][:12],
        "users": [list(user) for user in dict.fromkeys(cell.users)],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "tokens": max(record["tokens"] for record in records),
        "cores": count_cores(),
        "command": place.command,
        "commit": commit(),
        "datasets": datasets,
        "versions": {"python": python_version(), **{name: version(name) for name in PACKAGES}},
    }
    tasks = {task_name(task): task_key(task) for task in cell.tasks}
    earlier = read_result(place.results, cell.key)
    if earlier and earlier.made["model"] == made["model"]:
        kept = [name for name in earlier.tasks if name not in tasks]
        tasks |= {name: earlier.tasks[name] for name in kept}
        measures |= {key: value for key, value in earlier.measures.items() if key.split(".")[0] in kept}
        by_tap |= {key: value for key, value in earlier.by_tap.items() if key.split(".")[0] in kept}
    return Result(cell.key, cell.identity(), tasks, measures, by_tap, curves(records), made)


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read what tools/evaluate.py wrote.

    Raises:
        DataError: it is not there, or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read ({error}); start the grid again") from None
    return content


def commit() -> str | None:
    """Return the commit that the repository stands at; none where it is no clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    return found.stdout.strip() or None


def flatten(value: Any, prefix: str) -> Iterator[tuple[str, float | list[float]]]:
    """Yield the numbers of results, and their lists of numbers, by dotted path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}")
    elif is_number(value) or (isinstance(value, list) and value and all(map(is_number, value))):
        yield prefix, value


def is_number(value: Any) -> bool:
    """Tell whether a value is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def curves(records: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Return what validations measured over tokens: losses by language, and retrieval of held-out words."""
    found: dict[str, list[list[float]]] = {}
    for record in records:
        if record["kind"] != "valid":
            continue
        for language in record.get("loss", {}):
            value = value_at(record, "loss", language)
            if value is not None:
                found.setdefault(f"loss.{language}", []).append([record["tokens"], round(value, 4)])
    return found
