"""Atomic outputs: a file or folder appears complete or not at all."""

import glob
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from megatron_prealign.errors import DataError

# s3://bucket/name, which pathlib writes with one slash.
_REMOTE = re.compile(r"([a-z][a-z0-9+.-]+:)//?(?!/)(.*)", re.DOTALL)


def output_problems(path: str | Path, overwrite: bool, inputs: Iterable[Path] = ()) -> list[str]:
    """Return why an output can't be written; empty if it can.

    Args:
        path: file or folder to make.
        overwrite: replace an existing one.
        inputs: files that are read, and must not be replaced.
    """
    target = Path(path)
    if not target.absolute().parent.is_dir():
        return [f"{target}: its folder does not exist; create {target.absolute().parent}"]
    if not os.access(target.absolute().parent, os.W_OK):
        return [f"{target}: its folder is not writable; change its permissions or choose another"]
    # A broken link counts as existing.
    if os.path.lexists(target) and not overwrite:
        return [f"{target}: exists; remove it, choose another name or pass --overwrite"]
    return lost_inputs(target, inputs)


def can_be_made(path: Path) -> bool:
    """Return whether a file can be written once its missing folders are created."""
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK)


def lost_inputs(output: Path, inputs: Iterable[Path]) -> list[str]:
    """Return which inputs replacing an output would delete."""
    return [
        f"{output}: replacing it would delete the input {path}; choose another name"
        for path in inputs
        if path.resolve().is_relative_to(output.resolve())
    ]


def _temporary(path: Path) -> Path:
    """Return a name in the target's folder that no other process uses; so the rename stays within one file system."""
    # A process of another host may write the same file and have the same process id.
    return path.absolute().parent / f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"


def leftovers(path: Path) -> list[Path]:
    """Return temporary files that killed writes of a target left in its folder."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.tmp-*"))


def remote_problem(path: str | Path) -> str | None:
    """Return what is wrong with the address of another machine, or None for a path."""
    address = _REMOTE.match(str(path))
    return address and f"{address[1]}//{address[2]}: only files of this machine are read; copy or mount it"


def match_pattern(pattern: str) -> Iterator[str]:
    """Yield the paths that a pattern matches; folders in it that exist are meant literally, such as data[1]."""
    existing = next(parent for parent in (*Path(pattern).parents, Path()) if parent.exists())
    if glob.has_magic(str(existing)):
        pattern = f"{glob.escape(str(existing))}/{Path(pattern).relative_to(existing)}"
    return glob.iglob(pattern, recursive=True)


def sync(path: Path) -> None:
    """Flush a file or folder to disk, so that a rename never exposes half of it after a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path that is renamed to the target when the block ends without an error.

    Raises:
        DataError: the file exists and overwrite is off, or its folder does not exist.
    """
    target = Path(path)
    if problems := output_problems(target, overwrite):
        raise DataError(problems)
    temporary = _temporary(target)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
        sync(temporary.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_text_file(path: str | Path, overwrite: bool = False) -> Iterator[TextIO]:
    """Open a UTF-8 text file that appears under its name when the block ends without an error.

    Bytes of file names that are not UTF-8 become escapes, which JSON reads as what they were.

    Raises:
        DataError: the file exists and overwrite is off, or its folder does not exist.
    """
    with (
        atomic_file(path, overwrite) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream,
    ):
        yield stream


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file atomically, replacing an existing one.

    Raises:
        DataError: its folder does not exist or can't be written to.
    """
    with atomic_text_file(path, overwrite=True) as stream:
        stream.write(text)


def write_if_possible(path: Path, text: str) -> None:
    """Write a small file that a run does not depend on, atomically; a failure is a warning."""
    try:
        write_atomically(path, text)
    except (OSError, DataError) as error:
        print(f"WARNING: {path} can't be written ({error}); the run continues without it", file=sys.stderr, flush=True)


@contextmanager
def atomic_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to the target when the block ends without an error.

    Raises:
        DataError: the folder exists and overwrite is off, or its parent does not exist.
    """
    target = Path(path)
    if problems := output_problems(target, overwrite):
        raise DataError(problems)
    temporary = _temporary(target)
    retired = temporary.with_name(temporary.name + "-old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            sync(file)
        sync(temporary)
        if target.exists():
            os.replace(target, retired)
        try:
            os.replace(temporary, target)
        except OSError:
            if os.path.lexists(retired):
                os.replace(retired, target)
            raise
        sync(temporary.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if retired.is_dir():
            shutil.rmtree(retired)
        else:
            retired.unlink(missing_ok=True)
