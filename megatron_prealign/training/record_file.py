"""metrics.jsonl of a run, in which every step stands once, also where a run went back to an earlier one."""

import json
from pathlib import Path
from typing import Any, TextIO

from megatron_prealign.lexicon.output import atomic_text_file, sync

RECORDS = "metrics.jsonl"
DISCARDED = "metrics.discarded.jsonl"


class RecordFile:
    """Appends records, a line each."""

    def __init__(self, run_path: Path, step: int) -> None:
        """Open the records of a run that goes on after `step`; later ones move to metrics.discarded.jsonl."""
        self._run_path = run_path
        self._file = self._open(step)

    def write(self, record: dict[str, Any]) -> None:
        """Append a record."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def go_back(self, step: int) -> None:
        """Move the records of later steps away."""
        self._file.close()
        self._file = self._open(step)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self, step: int) -> TextIO:
        path, discarded_path = self._run_path / RECORDS, self._run_path / DISCARDED
        if path.exists():
            kept, discarded = _part(path.read_text(encoding="utf-8", errors="replace").splitlines(), step)
            if discarded:
                with discarded_path.open("a", encoding="utf-8") as stream:
                    stream.writelines(f"{line}\n" for line in discarded)
                sync(discarded_path)
                with atomic_text_file(path, overwrite=True) as stream:
                    stream.writelines(f"{line}\n" for line in kept)
        return path.open("a", encoding="utf-8")


def _part(lines: list[str], step: int) -> tuple[list[str], list[str]]:
    """Part the records up to a step from those behind it, and from what a killed run left of a line."""
    kept: list[str] = []
    discarded: list[str] = []
    for line in lines:
        (kept if _is_record_until(line, step) else discarded).append(line)
    return kept, discarded


def _is_record_until(line: str, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
