"""metrics.jsonl of a run, in which every step stands once, also where a run was killed and continued."""

from pathlib import Path
from typing import Any

import orjson

from megatron_prealign.files import atomic_file, sync
from megatron_prealign.reports.records import METRICS


class RecordFile:
    """Appends records, a line each."""

    def __init__(self, run_path: Path, step: int) -> None:
        """Open the records of a run that goes on after `step`; later ones move to metrics.discarded.jsonl."""
        path = run_path / METRICS
        discard_after(step, path)
        self._file = path.open("ab")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; what is not finite becomes null, which every reader of JSON knows."""
        self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def discarded_path(path: Path) -> Path:
    """Return where the records go that a continued run writes again: beside metrics.jsonl, metrics.discarded.jsonl."""
    return path.with_suffix(".discarded.jsonl")


def discard_after(step: int, path: Path) -> None:
    """Move the records of later steps, and what a killed run left of one, to the end of the file of discarded ones."""
    if not path.exists():
        return
    kept: list[bytes] = []
    discarded: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True):
        (kept if _is_record_until(line, step) else discarded).append(line)
    if discarded:
        with discarded_path(path).open("ab") as stream:
            stream.writelines(line.rstrip(b"\n") + b"\n" for line in discarded)
        sync(discarded_path(path))
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_bytes(b"".join(kept))


def _is_record_until(line: bytes, step: int) -> bool:
    """Tell whether a line is a whole record, not what a killed run left of one, of a step up to `step`."""
    try:
        return line.endswith(b"\n") and bool(orjson.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
