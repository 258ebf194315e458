"""Records of a run: what metrics.jsonl says, checked line by line, and curves out of it."""

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
"""Word sets of an evaluation, in the order they are shown, with their names."""


def read_records(path: Path, problems: list[str]) -> list[Record]:
    """Read metrics.jsonl as it stands, but for a last line that is not whole yet.

    What is wrong with it is added to problems as path:line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
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
            problems.append(f"{path}:{number}: no JSON ({error.msg}); remove the line, or restore the file")
            continue
        if fault := _fault(record):
            problems.append(f"{path}:{number}: {fault}; remove the line, or restore the file")
        else:
            records.append(record)
    return records


def _fault(record: Any) -> str | None:
    """Return why a line is no record; none where it is one."""
    if not isinstance(record, Mapping):
        return "no JSON object"
    if record.get("kind") not in KINDS:
        return f"its kind is {record.get('kind')!r}, not {' or '.join(KINDS)}"
    if not isinstance(record.get("stage"), str):
        return "it names no stage"
    counts = {name: record.get(name) for name in ("step", "tokens")}
    wrong = [name for name, value in counts.items() if not isinstance(value, int) or value < 0]
    return f"no whole number under {' and '.join(wrong)}" if wrong else None


def series(
    records: Iterable[Record], kind: str, *names: str | int, axis: str = "step"
) -> tuple[list[int], list[float]]:
    """Return one measure over a run: where on the axis it was taken, and its values.

    Args:
        records: records of the run, in order.
        kind: "train" or "valid".
        names: keys of the measure from the outside in, for example "loss", "en"; a number for an element of a list.
            Where they lead to a list, its mean counts.
        axis: "step" or "tokens".
    """
    found = [
        (record[axis], value)
        for record in records
        if record["kind"] == kind and (value := value_at(record, *names)) is not None
    ]
    return [position for position, _ in found], [value for _, value in found]


def value_at(record: Record, *names: str | int) -> float | None:
    """Return a number of a record, or the mean of a list of numbers; none where there is none."""
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
