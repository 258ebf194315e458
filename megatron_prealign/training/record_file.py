"""metrics.jsonl of a run, in which every step stands once, also where a run went back to an earlier one."""

from io import BufferedWriter
from pathlib import Path
from typing import Any

import orjson

from megatron_prealign.lexicon.output import atomic_file, sync

RECORDS = "metrics.jsonl"
DISCARDED = "metrics.discarded.jsonl"


class RecordFile:
    """Appends records, a line each."""

    def __init__(self, run_path: Path, step: int) -> None:
        """Open the records of a run that goes on after `step`; later ones move to metrics.discarded.jsonl."""
        self._run_path = run_path
        self._file = self._open(step)

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; what is not finite becomes null, which every reader of JSON knows."""
        self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()

    def go_back(self, step: int) -> None:
        """Move the records of later steps away."""
        self._file.close()
        self._file = self._open(step)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self, step: int) -> BufferedWriter:
        path, discarded_path = self._run_path / RECORDS, self._run_path / DISCARDED
        if path.exists():
            kept: list[bytes] = []
            discarded: list[bytes] = []
            for line in path.read_bytes().splitlines(keepends=True):
                (kept if _is_record_until(line, step) else discarded).append(line)
            if discarded:
                with discarded_path.open("ab") as stream:
                    stream.writelines(line.rstrip(b"\n") + b"\n" for line in discarded)
                sync(discarded_path)
                with atomic_file(path, overwrite=True) as temporary:
                    temporary.write_bytes(b"".join(kept))
        return path.open("ab")


def _is_record_until(line: bytes, step: int) -> bool:
    """Tell whether a line is a whole record, not what a killed run left of one, of a step up to `step`."""
    try:
        return line.endswith(b"\n") and bool(orjson.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
