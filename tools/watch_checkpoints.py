"""Evaluate the checkpoints of a run as they come: each once, on CPUs, into one table and one page of plots.

python tools/watch_checkpoints.py runs/own/pretrain --tasks tasks.yaml --output runs/own/evaluations

It waits for new checkpoints until the run is done. Run the same command to continue after a stop.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_prealign.checkpoint.folder import all_checkpoints, resolve_checkpoint, step_of
from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import INTERRUPTED, DataError, PrealignError
from megatron_prealign.evaluation.frame import show_progress
from megatron_prealign.evaluation.session import Session
from megatron_prealign.evaluation.task_list import Task, check_tasks, read_tasks
from megatron_prealign.files import can_be_made, write_atomically
from megatron_prealign.reports.page import STYLES, draw_panels, html_figure, html_page, html_table
from megatron_prealign.training.exit_note import EXIT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE, PAGE = "results.jsonl", "results.html"
EXPORTED = ".huggingface"
Results = dict[int, dict[str, Any]]
"""By step: the results of each task by name."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("run", type=path_argument, help="training.run_path of the run, which may start later")
    parser.add_argument("--tasks", required=True, metavar="FILE", help="YAML list, as of tools/evaluate.py")
    parser.add_argument("--output", type=path_argument, required=True, help="folder for the results")
    parser.add_argument("--every", type=int, default=1, metavar="STEPS", help="take only steps divisible by this")
    parser.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="also upload each checkpoint, as the revision step-NUMBER; a new repository is private",
    )
    parser.add_argument("--poll-seconds", type=float, default=60.0, help="between two looks at the run")
    parser.add_argument(
        "--patience-minutes",
        type=float,
        help="end when no checkpoint came for so long; 0: evaluate those that exist; default: when the run is done",
    )
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, 1 if checkpoints were left out, 75 after SIGTERM, 2 after an error of the user."""
    if argv is None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    options = build_parser().parse_args(argv)
    tasks = _check(options)
    options.output.mkdir(parents=True, exist_ok=True)
    _finish_last(options)
    left_out: dict[int, str] = {}
    last_news = time.monotonic()
    while True:
        # Looked at before the checkpoints: a run writes its last one before this note.
        is_done = _is_done(options.run)
        if new := _new_checkpoints(options, left_out):
            for checkpoint in new:
                _evaluate(checkpoint, tasks, options, left_out)
            last_news = time.monotonic()
            continue
        waited = (time.monotonic() - last_news) / 60
        if is_done or (options.patience_minutes is not None and waited >= options.patience_minutes):
            break
        time.sleep(options.poll_seconds)
    print(f"done: {len(read_results(options.output))} checkpoints in {options.output / TABLE}", file=sys.stderr)
    return 1 if left_out else 0


def _check(options: argparse.Namespace) -> list[Task]:
    """Return the tasks; raise everything that speaks against the watch."""
    problems: list[str] = []
    tasks = read_tasks(options.tasks, problems)
    problems += check_tasks(tasks)
    if options.run.is_file():
        problems.append(f"{options.run}: a file; name the training.run_path of a run")
    if options.every < 1:
        problems.append(f"--every {options.every}: give at least 1")
    if options.push_to_hub is not None:
        problems += _hub_problems(options.push_to_hub)
    if options.poll_seconds < 0:
        problems.append(f"--poll-seconds {options.poll_seconds}: give at least 0")
    if options.output.is_file() or not can_be_made(options.output / TABLE):
        problems.append(f"{options.output}: can't be written: name a folder in a writable one")
    wanted = {task.name: {"evaluation": task.kind, "options": task.options_as_json()} for task in tasks}
    for path in _result_files(options.output):
        found = {name: {key: entry[key] for key in ("evaluation", "options")} for name, entry in _tasks(path).items()}
        if found != wanted:
            problems.append(f"{path}: results of other tasks than {options.tasks}; name another --output")
            break
    if problems:
        raise DataError(problems)
    return tasks


def _hub_problems(repository: str) -> list[str]:
    """Return what prevents any upload."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    problems = []
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        problems.append(f"--push-to-hub {repository}: {error}")
    if get_token() is None:
        problems.append("--push-to-hub: no token; set HF_TOKEN, or run `hf auth login`")
    return problems


def _is_done(run: Path) -> bool:
    """Return whether a run is done; one that stopped or failed may be started again."""
    try:
        return bool(json.loads((run / EXIT).read_text(encoding="utf-8"))["exit_code"] == 0)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _new_checkpoints(options: argparse.Namespace, left_out: Mapping[int, str]) -> list[Path]:
    return [
        path
        for path in all_checkpoints(options.run)
        if step_of(path) % options.every == 0
        and step_of(path) not in left_out
        and not (options.output / f"{path.name}.json").exists()
    ]


def _evaluate(checkpoint: Path, tasks: Sequence[Task], options: argparse.Namespace, left_out: dict[int, str]) -> None:
    """Evaluate a checkpoint, or leave it out with a warning if it is deleted, damaged or can't be uploaded."""
    # Imported late: --help and wrong options must not wait for megatron-core.
    from megatron_prealign.checkpoint.huggingface import export_checkpoint, push_to_hub

    exported = options.output / f"{checkpoint.name}{EXPORTED}"
    try:
        if not exported.exists():  # else of an evaluation that was killed, or could not be uploaded
            export_checkpoint(resolve_checkpoint(checkpoint), exported)
        if options.push_to_hub is not None:
            address = push_to_hub(exported, options.push_to_hub, f"step-{step_of(checkpoint)}")
            print(f"uploaded: {address}", file=sys.stderr, flush=True)
    except (PrealignError, OSError) as error:
        left_out[step_of(checkpoint)] = str(error)
        is_there = checkpoint.exists() or exported.exists()
        why = error if is_there else "the run deleted it; see checkpoint.keep_last and keep_every"
        print(f"WARNING: {checkpoint} is left out: {why}", file=sys.stderr, flush=True)
        return
    # The results appear under their name when all tasks are done, which makes this checkpoint a finished one.
    session = Session(exported, "cpu", options.output / f"{checkpoint.name}.json", show_progress)
    session.run(tasks, lambda _: {}, resume=True)
    shutil.rmtree(exported)
    _write_reports(options.output, options.run)


def _finish_last(options: argparse.Namespace) -> None:
    """Do what a kill after the results of a checkpoint, which are never written again, left undone."""
    for path in _result_files(options.output):
        shutil.rmtree(path.with_suffix(EXPORTED), ignore_errors=True)
    if _result_files(options.output):
        _write_reports(options.output, options.run)


def _result_files(output: Path) -> list[Path]:
    return sorted(output.glob("step_*.json"))


def _tasks(path: Path) -> dict[str, Any]:
    try:
        tasks: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["tasks"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not results of an evaluation ({error!r}); remove it to repeat it") from None
    return tasks


def read_results(output: Path) -> Results:
    """Return the results of all evaluated checkpoints, by step in ascending order."""
    return {
        int(path.stem.removeprefix("step_")): {name: entry["results"] for name, entry in _tasks(path).items()}
        for path in _result_files(output)
    }


def _write_reports(output: Path, run: Path) -> None:
    """Write the table and the page anew from all results."""
    results = read_results(output)
    lines = [json.dumps({"step": step, "tasks": tasks}, ensure_ascii=False) for step, tasks in results.items()]
    write_atomically(output / TABLE, "\n".join(lines) + "\n")
    write_atomically(output / PAGE, render(results, run.name))


def render(results: Results, title: str) -> str:
    """Return a page with a panel for each score of each task over the steps, and a table of the last step."""
    numbers = {
        step: {(name, *keys): value for name, found in tasks.items() for keys, value in scores(found)}
        for step, tasks in results.items()
    }
    last = numbers[max(numbers)]
    panels = list(dict.fromkeys(f"{keys[0]}: {keys[-1]}" for keys in last))
    # The same line for a language, or a pair of them, in all panels.
    lines = list(dict.fromkeys(" ".join(keys[1:-1]) for keys in last))

    def draw(axes: "Axes", panel: str) -> None:
        for keys in last:
            if f"{keys[0]}: {keys[-1]}" == panel:
                label = " ".join(keys[1:-1])
                points = [(step, found[keys]) for step, found in numbers.items() if keys in found]
                axes.plot(*zip(*points, strict=True), label=label, **STYLES[lines.index(label) % len(STYLES)])
        axes.set_title(panel)
        axes.set_xlabel("step")

    figure = html_figure(draw_panels(panels, draw), "Scores over steps", "Lists of numbers by tap as their mean.")
    rows = [[" ".join(keys), f"{value:.4g}"] for keys, value in last.items()]
    lead = f"{len(numbers)} checkpoints, the last of step {max(numbers):,}"
    return html_page(f"Evaluations of {title}", lead, [figure, html_table(["score", f"step {max(numbers):,}"], rows)])


def scores(results: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield the scores of a task by keys: its floating-point numbers, of lists their mean; counts are left out."""
    for key, value in results.items():
        if isinstance(value, Mapping):
            yield from (((str(key), *keys), score) for keys, score in scores(value))
        else:
            values = value if isinstance(value, list) else [value]
            if found := [one for one in values if isinstance(one, float)]:
                yield (str(key),), sum(found) / len(found)


if __name__ == "__main__":
    raise SystemExit(main())
