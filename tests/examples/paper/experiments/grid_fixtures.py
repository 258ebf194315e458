"""What the tests of the grid share: small experiments, and results made up for their cells."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from examples.paper.experiments.cells import Cell, Result, make_cells, task_key, task_name
from examples.paper.experiments.specs import Experiment, Scale, read_experiments, read_scale

SCALE = "small"


def read(
    paths: Sequence[str | Path], seeds: int = 3, scale_name: str = SCALE
) -> tuple[Scale, list[Experiment], list[Cell]]:
    """Read experiments at the small scale, or another."""
    scale = read_scale(scale_name)
    experiments = read_experiments([Path(path) for path in paths], scale)
    return scale, experiments, make_cells(experiments, scale, range(1, seeds + 1))


def write_experiment(folder: Path, name: str = "mine", **changes: Any) -> Path:
    """Write an experiment of two methods."""
    content: dict[str, Any] = {
        "title": "Mine",
        "question": "Which?",
        "baseline": "joint",
        "variants": {"joint": None, "prealign": None},
        "measures": ["perplexity.clone.perplexity", "held_out.pairs.en-clone.p_at_1"],
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def make_result(cell: Cell, measures: dict[str, float], **made: Any) -> Result:
    """Return a result with all tasks done."""
    about = {
        "model": "abc",
        "users": [list(user) for user in dict.fromkeys(cell.users)],
        "date": f"2026-01-0{cell.seed}T10:00:00+00:00",
        "seconds": 600.0,
        "tokens": cell.tokens,
        "cores": 2,
        "command": "python examples/experiments/run.py mine.yaml",
        "datasets": {"english_text_document": "aaa"},
        "versions": {"torch": "2"},
    }
    tasks = {task_name(task): task_key(task) for task in cell.tasks}
    curves = {"loss.en": [[1000, 5.0], [2000, 4.0]], "loss.clone": [[1000, 7.0], [2000, 6.0]]}
    return Result(cell.key, cell.identity(), tasks, measures, {}, curves, about | made)


def make_results(cells: Sequence[Cell], values: Callable[[Cell, str], float | None]) -> dict[str, Result]:
    """Return results by cell; cells for whose first variant `values` knows no perplexity have none."""
    results = {}
    for cell in cells:
        perplexity = values(cell, "perplexity")
        if perplexity is None:
            continue
        measures = {"perplexity.clone.perplexity": perplexity}
        retrieval = values(cell, "retrieval")
        if retrieval is not None:
            measures["held_out.pairs.en-clone.p_at_1"] = retrieval
        results[cell.key] = make_result(cell, measures)
    return results
