"""Reports of an experiment: what metrics.jsonl and evaluation files say, as a table and one HTML page.

Compares two methods over one or more seeds. Functions of their inputs: nothing is read but the named files, and
nothing is written; callers write the returned page.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from rich.table import Table

from megatron_prealign.errors import DataError
from megatron_prealign.reports.records import LANGUAGE_NAMES, PAIR_SETS, read_records


@dataclass(frozen=True)
class Run:
    """One method with one seed."""

    method: str
    """Name of the method, for example "joint"."""
    seed: int
    """Seed of weights and data order."""
    metrics: tuple[dict[str, Any], ...]
    """Records of metrics.jsonl of all stages; "tokens" counts from the start of the first."""
    evaluation: dict[str, Any]
    """What tools/evaluate.py wrote."""


@dataclass(frozen=True)
class Row:
    """One measure of both methods over the same seeds."""

    name: str
    """What is measured."""
    better: Literal["lower", "higher"]
    """Which direction is good."""
    baseline: tuple[float, ...]
    """Values of the first method, by seed."""
    method: tuple[float, ...]
    """Values of the second method, by seed."""

    @property
    def ratio(self) -> float:
        """Mean of the second method over that of the first."""
        return mean(self.method) / mean(self.baseline) if mean(self.baseline) else inf

    @property
    def num_seeds_better(self) -> int:
        """Seeds for which the second method is better than the first."""
        sign = 1 if self.better == "higher" else -1
        return sum(sign * new > sign * old for old, new in zip(self.baseline, self.method, strict=True))


def read_run(method: str, seed: int, metrics_paths: Sequence[Path], evaluation_path: Path) -> Run:
    """Read one run from the metrics of its stages, in order, and its evaluation.

    Raises:
        DataError: naming every file that is missing, empty or no JSON.
    """
    problems: list[str] = []
    stages = [read_records(path, problems) for path in metrics_paths]
    evaluation = _read_evaluation(evaluation_path, problems)
    if problems:
        raise DataError(problems)
    return Run(method, seed, tuple(join_stages(stages)), evaluation)


def join_stages(stages: Iterable[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Join the valid records of consecutive stages; "tokens" continues from the previous stage."""
    joined: list[dict[str, Any]] = []
    seen = 0
    for records in stages:
        joined += [{**record, "tokens": record["tokens"] + seen} for record in records]
        seen = max((record["tokens"] for record in joined), default=0)
    return joined


def compare(runs: Sequence[Run], baseline: str, method: str) -> list[Row]:
    """Return the rows of the comparison: perplexity by language, retrieval by word set (mean over all taps).

    Raises:
        DataError: the two methods were not run with the same seeds.
    """
    by_method = {name: sorted((run for run in runs if run.method == name), key=_seed) for name in (baseline, method)}
    seeds = {name: [run.seed for run in found] for name, found in by_method.items()}
    if not seeds[baseline] or seeds[baseline] != seeds[method]:
        raise DataError(f"seeds of {baseline} {seeds[baseline]} and of {method} {seeds[method]} must be the same")
    first = by_method[baseline][0].evaluation
    rows = []
    for language in first["perplexity"]:
        values = {name: tuple(_perplexity(run, language) for run in found) for name, found in by_method.items()}
        title = f"{LANGUAGE_NAMES.get(language, language)} perplexity"
        rows.append(Row(title, "lower", values[baseline], values[method]))
    for pair_set, title in PAIR_SETS.items():
        for pair in first["retrieval"].get(pair_set, {}):
            values = {
                name: tuple(mean(retrieval(run, pair_set, pair)) for run in found) for name, found in by_method.items()
            }
            rows.append(Row(f"Retrieval {pair}, {title}", "higher", values[baseline], values[method]))
    return rows


def retrieval(run: Run, pair_set: str, pair: str) -> list[float]:
    """Return P@1 of a run by tap, in [0, 1]."""
    return [float(value) for value in run.evaluation["retrieval"][pair_set][pair]["p_at_1"]]


def format_rows(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Return each row as text: name, first method, second method, how they compare."""
    return [(_with_arrow(row), _spread(row, row.baseline), _spread(row, row.method), _verdict(row)) for row in rows]


def text_table(rows: Sequence[Row], baseline: str, method: str) -> Table:
    """Return the comparison as a table for the terminal."""
    num_seeds = len(rows[0].baseline)
    caption = explain_spread(num_seeds) if num_seeds > 1 else None
    table = Table("", caption=caption, title=f"{method} against {baseline}", title_justify="left")
    for heading in (baseline, method, f"{method} vs {baseline}"):
        table.add_column(heading, justify="right")
    for cells in format_rows(rows):
        table.add_row(*cells)
    return table


def explain_spread(num_seeds: int) -> str:
    """Say what the numbers of several seeds are."""
    return f"mean ± standard deviation of {num_seeds} seeds; in brackets how many are better"


def rows_as_json(rows: Sequence[Row], baseline: str, method: str) -> list[dict[str, Any]]:
    """Return the comparison as plain data."""
    return [
        {
            "measure": row.name,
            "better": row.better,
            baseline: list(row.baseline),
            method: list(row.method),
            "ratio": row.ratio if isfinite(row.ratio) else None,
            "num_seeds_better": row.num_seeds_better,
        }
        for row in rows
    ]


def _seed(run: Run) -> int:
    return run.seed


def _perplexity(run: Run, language: str) -> float:
    return float(run.evaluation["perplexity"][language]["perplexity"])


def _digits(row: Row) -> int:
    """Perplexities are shown with one decimal place, ratios in [0, 1] with three."""
    return 1 if row.better == "lower" else 3


def _with_arrow(row: Row) -> str:
    return f"{row.name} {'↓' if row.better == 'lower' else '↑'}"


def _spread(row: Row, values: Sequence[float]) -> str:
    digits = _digits(row)
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.{digits}f}"


def _verdict(row: Row) -> str:
    """Return the ratio of perplexities or the difference of shares, and how many of several seeds are better."""
    num_seeds = len(row.baseline)
    agreement = f" ({row.num_seeds_better}/{num_seeds})" if num_seeds > 1 else ""
    # A share of almost nothing as the divisor would say nothing but that.
    change = f"× {row.ratio:.2f}" if row.better == "lower" else f"{mean(row.method) - mean(row.baseline):+.3f}"
    return f"{change}{agreement}"


def _read_evaluation(path: Path, problems: list[str]) -> dict[str, Any]:
    """Read what tools/evaluate.py wrote; add what is wrong with it to problems."""
    evaluation: dict[str, Any] = {}
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{path}: {error.strerror}; run the step that writes it")
    except json.JSONDecodeError as error:
        problems.append(f"{path}: no JSON ({error}); remove it and run the step that writes it again")
    return evaluation
