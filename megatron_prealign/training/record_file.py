"""Records of a run as lines of JSON, in which every step stands once, also where a run was killed and continued.

A record is worth less than the run: what can't be written is lost, and said, and training goes on.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from megatron_prealign.errors import DataError
from megatron_prealign.files import atomic_file, sync

# atomic_file refuses a folder that became read-only with a DataError.
_FAILURES = (OSError, DataError)


class RecordFile:
    """Appends records, a line each; a failed write costs its record alone."""

    def __init__(self, path: Path, step: int, say: Callable[[str], None], *, sync_each: bool = False) -> None:
        """Take the records of a run that goes on after `step`; later ones move to <name>.discarded.jsonl.

        Args:
            path: the file; made with the first record.
            step: the last step whose records stay.
            say: shows a line.
            sync_each: bring each record to the disk before `write` returns.
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
        # What fails here is tried again, and said, with the first record.
        with suppress(*_FAILURES):
            discard_after(step, path)
            self._is_sorted = True

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; what is not finite becomes null, which every reader of JSON knows."""
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
        """Close the file, and say how many of the last records it lacks."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.close(descriptor)
            except OSError as error:  # where a network disk says what became of the last lines
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
        """Remove what a failed write left of its line."""
        if self._is_torn:
            os.ftruncate(self._descriptor, self._end)
            self._is_torn = False

    def _lose(self, error: Exception) -> None:
        with suppress(OSError):
            self._take_back()
        # A descriptor of a mount that went away never works again; the path may.
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1
        if not self._num_lost:
            self._say(
                f"WARNING: {self._path} can't be written ({error}); training goes on, and records are lost until it can"
            )
        self._num_lost += 1


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
    """Tell whether a line is a whole record, not what a killed run left of one, of a step up to `step`."""
    try:
        return line.endswith(b"\n") and bool(orjson.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
