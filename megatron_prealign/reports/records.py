"""Records of a run: metrics.jsonl, checked line by line, and the curves in it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

Record = dict[str, Any]

METRICS = "metrics.jsonl"
KINDS = ("train", "valid")

LANGUAGE_NAMES = {"en": "English", "clone": "English-Clone"}

PAIR_SETS = {"trained": "trained words", "held_out": "held-out words"}
"""Word sets of an evaluation in display order, with their names."""


def read_records(path: Path, problems: list[str]) -> list[Record]:
    """Read metrics.jsonl, except a last line that is still being written; add problems as path:line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        problems.append(f"{path}: {reason}; name the folder of a run that has written records")
        return []
    lines = text[: text.rfind("\n") + 1].splitlines()
    if not lines:
        problems.append(f"{path}: empty; wait for the run's first record (logging.log_interval)")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{path}:{number}: not JSON ({error.msg}); remove the line, or restore the file")
            continue
        if fault := _fault(record):
            problems.append(f"{path}:{number}: {fault}; remove the line, or restore the file")
        else:
            records.append(record)
    return records


def _fault(record: Any) -> str | None:
    """Return why a line is not a record; `None` if it is one."""
    if not isinstance(record, Mapping):
        return "not a JSON object"
    if record.get("kind") not in KINDS:
        return f"its kind is {record.get('kind')!r}, not {' or '.join(KINDS)}"
    if not isinstance(record.get("stage"), str):
        return "it has no stage"
    counts = {name: record.get(name) for name in ("step", "tokens")}
    wrong = [name for name, value in counts.items() if not isinstance(value, int) or value < 0]
    return f"not a whole number of at least 0: {' and '.join(wrong)}" if wrong else None


def series(
    records: Iterable[Record], kind: str, *names: str | int, axis: str = "step"
) -> tuple[list[int], list[float]]:
    """Return one measure over a run: its positions on the axis, and its values.

    Args:
        records: records of the run, in order.
        kind: "train" or "valid".
        names: keys of the measure from the outside in, for example "loss", "en"; a number for an element of a list.
            If they lead to a list, its mean is taken.
        axis: "step" or "tokens".
    """
    found = [
        (record[axis], value)
        for record in records
        if record["kind"] == kind and (value := value_at(record, *names)) is not None
    ]
    return [position for position, _ in found], [value for _, value in found]


def value_at(record: Record, *names: str | int) -> float | None:
    """Return a number of a record, or the mean of a list of numbers; `None` if there is none."""
    value: Any = record
    for name in names:
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and isinstance(name, int) and name < len(value):
            value = value[name]
        else:
            return None
    if isinstance(value, list):
        numbers = [number for number in value if number is not None]
        return mean(numbers) if numbers else None
    return float(value) if isinstance(value, int | float) else None
