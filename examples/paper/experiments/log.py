"""The experiment log: every cell that finished and every one that failed, with what it takes to repeat it."""

from pathlib import Path
from typing import Any

from examples.paper.experiments.cells import read_result
from examples.paper.experiments.grid import read_failures
from examples.steps import write_text
from megatron_prealign.errors import DataError

BEGIN, END = "<!-- cells -->", "<!-- /cells -->"
INTRODUCTION = """# Experiment log

Every experiment that was run, failures included. `examples/paper/experiments/run.py` writes the part between the marks
below from the files of cells; the rest is written by hand and kept.
"""
MAX_MEASURES = 4


def write_log(path: Path, results: Path) -> None:
    """Write the table of all cells and failures between the marks of the log; the rest of it stays.

    Raises:
        DataError: a cell's file is damaged, or the log lacks a mark.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else f"{INTRODUCTION}\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise DataError(f"{path}: lacks {BEGIN} or {END}; put both on lines of their own, or remove the file")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    write_text(path, f"{before}{BEGIN}\n{render(results)}\n{END}{after}")


def render(results: Path) -> str:
    """Return the table of all cells and failures, oldest first."""
    records = [*_finished(results), *map(_failed, read_failures(results))]
    lines = [
        "| date (UTC) | experiment, method, seed | cell | minutes | result | command |",
        "|---|---|---|---|---|---|",
    ]
    for record in sorted(records, key=lambda record: record["date"]):
        shown = [record[name] for name in ("date", "title", "cell", "minutes", "result", "command")]
        lines.append("| " + " | ".join(str(value).replace("|", "\\|") for value in shown) + " |")
    return "\n".join(lines)


def _finished(results: Path) -> list[dict[str, Any]]:
    records = []
    for path in sorted(results.glob("*.json")):
        result = read_result(results, path.stem)
        assert result is not None
        made = result.made
        shown = [key for key in result.measures if key.endswith((".perplexity", ".accuracy"))][:MAX_MEASURES]
        numbers = ", ".join(f"{key.removesuffix('.perplexity')} {result.measures[key]:.4g}" for key in shown)
        records.append(
            {
                "date": made["date"][:16].replace("T", " "),
                "title": f"{_users(made['users'])}, seed {result.identity['seed']}",
                "cell": f"`{result.key}`",
                "minutes": round(made["seconds"] / 60, 1),
                "result": numbers or f"{len(result.measures)} measures",
                "command": f"`{made['command']}`",
            }
        )
    return records


def _failed(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "date": record["date"][:16].replace("T", " "),
        "title": f"{_users(record['users'])}, seed {record['seed']}",
        "cell": f"`{record['cell']}`",
        "minutes": round(record["seconds"] / 60, 1),
        "result": f"**failed**: {' '.join(record['reason'].split())[:200]}",
        "command": f"`{record['command']}`",
    }


def _users(users: list[list[str]]) -> str:
    """Return experiments and variants as text."""
    return "; ".join(f"{experiment} {variant}" for experiment, variant in users)
