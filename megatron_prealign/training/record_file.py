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
    """Append records, one per line; a failed write loses only its record."""

    def __init__(self, path: Path, step: int, say: Callable[[str], None], *, sync_each: bool = False) -> None:
        """Open the records of a run that resumes after `step`; move later ones to <name>.discarded.jsonl.

        Args:
            path: the file; created with the first record.
            step: last step whose records are kept.
            say: shows a line.
            sync_each: sync each record to disk before `write` returns.
        """
        self._path = path
        self._step = step
        self._say = say
        self._sync_each = sync_each
        self._descriptor = -1
        self._end = 0
        self._is_torn = False
        self._num_lost = 0
        self._is_sorted = False
        # A failure here is retried, and reported, with the first record.
        with suppress(*_FAILURES):
            discard_after(step, path)
            self._is_sorted = True

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; NaN and infinity become null, which every JSON reader accepts."""
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        try:
            self._append(line)
        except _FAILURES as error:
            self._lose(error)
            return
        if self._num_lost:
            self._say(f"{self._path}: can be written again; {self._num_lost} records are missing in it")
            self._num_lost = 0

    def close(self) -> None:
        """Close the file, and report how many of the last records are missing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.close(descriptor)
            except OSError as error:  # a network disk may report failed writes only here
                self._lose(error)
        if self._num_lost:
            self._say(f"{self._path}: the last {self._num_lost} records are missing in it")

    def _append(self, line: bytes) -> None:
        if not self._is_sorted:
            discard_after(self._step, self._path)
            self._is_sorted = True
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._take_back()
        self._end = os.fstat(self._descriptor).st_size
        self._is_torn = True
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        if self._sync_each:
            os.fsync(self._descriptor)
        self._is_torn = False

    def _take_back(self) -> None:
        """Remove the partial line of a failed write."""
        if self._is_torn:
            os.ftruncate(self._descriptor, self._end)
            self._is_torn = False

    def _lose(self, error: Exception) -> None:
        with suppress(OSError):
            self._take_back()
        # The descriptor of a lost mount never works again; its path may.
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1
        if not self._num_lost:
            self._say(
                f"WARNING: {self._path} can't be written ({error}); training continues, records are lost until it can"
            )
        self._num_lost += 1


def discarded_path(path: Path) -> Path:
    """Return the file for records that a resumed run repeats: metrics.discarded.jsonl for metrics.jsonl."""
    return path.with_suffix(".discarded.jsonl")


def discard_after(step: int, path: Path) -> None:
    """Move records of later steps, and a truncated last line, to the end of the file of discarded records."""
    if not path.exists():
        return
    kept: list[bytes] = []
    discarded: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True):
        (kept if _is_record_until(line, step) else discarded).append(line)
    if discarded:
        _append_whole(discarded_path(path), b"".join(line.rstrip(b"\n") + b"\n" for line in discarded))
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_bytes(b"".join(kept))


def _append_whole(path: Path, lines: bytes) -> None:
    """Append lines to a file, all of them or none."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as stream:
            stream.write(lines)
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
