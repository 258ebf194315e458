"""A disk that fills up during a run: the save fails on all ranks with its cause, and nothing earlier is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megatron_prealign.checkpoint import folder
from tests.faults.conftest import MakeRun, Undisturbed
from tests.faults.runs import Run, read_records

DISK_BYTES = 24 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk at the place of a run's checkpoints."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    path = tmp_path / "run" / "checkpoints"
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def _fill(path: Path, free_bytes: int) -> None:
    """Leave so many bytes of a disk free."""
    status = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - free_bytes)


def test_a_save_without_room_fails_with_its_cause_and_the_run_goes_on_later(
    disk: Path, make_run: MakeRun, undisturbed: Callable[[str, str], Undisturbed], tmp_path: Path
) -> None:
    whole = undisturbed("pretrain", "tp2")
    size = sum(path.stat().st_size for path in folder.step_path(whole.path, 12).rglob("*") if path.is_file())
    values = make_run("pretrain", "tp2", tmp_path / "run")
    run = Run.start(values)
    assert run.wait_for((disk / folder.LATEST).exists)
    run.send(signal.SIGSTOP)
    _fill(disk / "filler", size // 2)
    run.send(signal.SIGCONT)
    assert run.wait() == [2, 2], run.log
    error = run.log[run.log.index("error: ") :]
    assert "could not be saved: rank " in error
    assert "No space left on device" in error
    assert "earlier checkpoints are untouched" in error
    assert not list(disk.glob("*.tmp"))
    left = folder.newest_checkpoint(run.path)
    assert left is not None

    # Refused before a rank starts.
    again = Run.start(values)
    assert again.wait() == [2, 2]
    assert "make room, or name another folder" in again.log
    assert folder.newest_checkpoint(run.path) == left

    (disk / "filler").unlink()
    last = Run.start(values)
    assert last.wait() == [0, 0], last.log
    assert read_records(run.path) == whole.records
