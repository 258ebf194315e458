"""A disk that fills up during a run: a save fails on all ranks with its cause, and nothing earlier is lost; records end
no run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from megatron_prealign.checkpoint import folder
from tests.faults.conftest import MakeRun, Undisturbed
from tests.faults.runs import Run, read_records
from tests.launching import ROOT

DISK_BYTES = 24 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk at the place of a run's checkpoints."""
    path = tmp_path / "run" / "checkpoints"
    path.mkdir(parents=True)
    with _mounted(path):
        yield path


@contextlib.contextmanager
def _mounted(path: Path) -> Iterator[None]:
    """Have a small disk at a folder."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
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


@pytest.fixture
def records_disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk at the place of a run's records; its checkpoints lie on another."""
    path = tmp_path / "run"
    path.mkdir()
    with _mounted(path):
        (path / "checkpoints").mkdir()
        with _mounted(path / "checkpoints"):
            yield path


@pytest.mark.parametrize("is_freed", [True, False])
def test_records_without_room_are_lost_and_the_run_goes_on(
    is_freed: bool,
    records_disk: Path,
    make_run: MakeRun,
    undisturbed: Callable[[str, str], Undisturbed],
) -> None:
    whole = undisturbed("pretrain", "tp2")
    values = make_run("pretrain", "tp2", records_disk)
    values["logging"] = {"log_interval": 1, "tensorboard": True, "profile_steps": [7, 7]}
    run = Run.start(values)
    assert run.wait_for(folder.step_path(run.path, 2).exists)
    run.send(signal.SIGSTOP)
    _fill(records_disk / "filler", 0)
    run.send(signal.SIGCONT)
    assert run.wait_for(folder.step_path(run.path, 8).exists)
    if is_freed:
        run.send(signal.SIGSTOP)
        (records_disk / "filler").unlink()
        run.send(signal.SIGCONT)
    assert run.wait() == [0, 0], run.log
    assert "Traceback" not in run.log
    assert run.log.count(f"WARNING: {run.path / 'metrics.jsonl'} can't be written ([Errno 28]") == 1
    assert "profile/steps_7-7_rank_0.json.gz can't be written (" in run.log
    assert folder.newest_checkpoint(run.path) == folder.step_path(run.path, 12)
    # The room of run.holder, which is removed before, is enough for the note.
    assert json.loads((run.path / "exit.json").read_text()) == {"exit_code": 0, "cause": "done"}
    records = read_records(run.path)
    assert all(record in whole.records for record in records)
    num_lost = len(whole.records) - len(records)
    assert num_lost > 0
    if is_freed:
        assert f"metrics.jsonl: can be written again; records missing in it: {num_lost}" in run.log
        assert records[-1] == whole.records[-1]
    else:
        assert f"metrics.jsonl: records missing at its end: {num_lost}" in run.log


def test_a_log_that_cannot_be_written_ends_no_run(make_run: MakeRun, tmp_path: Path) -> None:
    values = make_run("pretrain", "tp2", tmp_path / "run")
    values["parallel"] = {}
    config_path = tmp_path / "config.yaml"
    config_path.write_text(yaml.safe_dump(values))
    with open("/dev/full", "w") as full:
        command = [sys.executable, "pretrain_prealign.py", "--config", str(config_path)]
        result = subprocess.run(command, stderr=full, cwd=ROOT, check=False)
    assert result.returncode == 0
    assert [step for step, _ in read_records(tmp_path / "run")] == list(range(1, 13))
