"""Write records of a run as lines of JSON; each step appears once, even if the run was killed and resumed.

A record that cannot be written is dropped and reported; training continues.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from megatron_prealign.errors import DataError
from megatron_prealign.files import atomic_file, sync

# atomic_file raises DataError for a folder that became read-only.
_FAILURES = (OSError, DataError)


class RecordFile:
    """Appends records, one per line; a failed write loses only its record."""

    def __init__(self, path: Path, step: int, say: Callable[[str], None], *, sync_each: bool = False) -> None:
        """Open the records of a run that resumes after `step`; move later ones to <name>.discarded.jsonl.

        Args:
            path: the file; created with the first record.
            step: last step whose records are kept.
            say: shows a line.
            sync_each: sync each record to disk before `write` returns.
        """
        self._path = path
        self._last_step = step
        self._say = say
        self._sync_each = sync_each
        self._num_lost = 0
        self._is_clean = False
        # A failure here is retried, and reported, with the first record.
        with suppress(*_FAILURES):
            self._clean()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; NaN and infinity become null, which every JSON reader accepts."""
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        try:
            self._clean()
            # Opened each time: the descriptor of a lost mount never works again, its path may.
            _append(self._path, line, synced=self._sync_each)
        except _FAILURES as error:
            self._is_clean = False
            if not self._num_lost:
                self._say(f"WARNING: {self._path} can't be written ({error}); training continues, records are lost")
            self._num_lost += 1
            return
        self._last_step = record["step"]
        if self._num_lost:
            self._say(f"{self._path}: can be written again; records missing in it: {self._num_lost}")
            self._num_lost = 0

    def close(self) -> None:
        """Report how many of the last records are missing."""
        if self._num_lost:
            self._say(f"{self._path}: records missing at its end: {self._num_lost}")

    def _clean(self) -> None:
        """Move later records of an earlier run, and the partial line of a failed write, out of the file."""
        if not self._is_clean:
            _discard_after(self._last_step, self._path)
            self._is_clean = True


def discarded_path(path: Path) -> Path:
    """Return the file for records that a resumed run repeats: metrics.discarded.jsonl for metrics.jsonl."""
    return path.with_suffix(".discarded.jsonl")


def _discard_after(step: int, path: Path) -> None:
    """Move records of later steps, and a truncated last line, to the end of the file of discarded records."""
    if not path.exists():
        return
    kept: list[bytes] = []
    discarded: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True):
        (kept if _is_record_until(line, step) else discarded).append(line)
    if discarded:
        _append(discarded_path(path), b"".join(line.rstrip(b"\n") + b"\n" for line in discarded), synced=True)
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_bytes(b"".join(kept))


def _append(path: Path, lines: bytes, *, synced: bool) -> None:
    """Append lines to a file, all of them or none."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as stream:
            stream.write(lines)
        if synced:
            sync(path)
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise


def _is_record_until(line: bytes, step: int) -> bool:
    """Return whether a line is a complete record of a step up to `step`."""
    try:
        return line.endswith(b"\n") and bool(orjson.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
