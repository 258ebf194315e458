"""One run at a time in a folder; what a killed one leaves behind is in nobody's way."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from megatron_prealign.checkpoint import run_lock
from megatron_prealign.errors import CheckpointError

HOLD = """
import sys
from pathlib import Path
from megatron_prealign.checkpoint.run_lock import _Lock
_Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of tmp_path."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@contextlib.contextmanager
def _touching(path: Path) -> Iterator[None]:
    """Touch a file again and again."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.01):
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _lock(run: Path) -> Any:
    return run_lock._Lock(run)


def test_the_second_is_refused_until_the_first_is_dead(held: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=rf"{tmp_path} is in use by the run of process {held.pid} on host .*, since"
    ):
        _lock(tmp_path).acquire()
    held.send_signal(signal.SIGKILL)
    held.wait()
    lock = _lock(tmp_path)
    # On one's own host the kernel's word is enough, however fresh the dead run's file is.
    with _touching(tmp_path / run_lock.HOLDER):
        lock.acquire()
    assert json.loads((tmp_path / run_lock.HOLDER).read_text())["process"] == os.getpid()
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == [run_lock.LOCK]
    assert tmp_path / run_lock.LOCK not in [Path(file.path) for file in psutil.Process().open_files()]
    _lock(tmp_path).acquire()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "TOUCH_SECONDS", 0.05)


@pytest.mark.parametrize("alive", [True, False])
def test_a_holder_on_another_host_counts_as_long_as_it_touches_its_file(
    alive: bool, quick: None, tmp_path: Path
) -> None:
    """As on a disk whose locks are kept by each host for itself."""
    holder = tmp_path / run_lock.HOLDER
    holder.write_text(json.dumps({"host": "elsewhere", "process": 7, "since": "noon"}))
    first = _lock(tmp_path)
    if alive:
        with (
            _touching(holder),
            pytest.raises(CheckpointError, match="by the run of process 7 on host elsewhere, since no"),
        ):
            first.acquire()
    else:
        first.acquire()
        assert json.loads(holder.read_text())["host"] != "elsewhere"
        before = holder.stat().st_mtime_ns
        while holder.stat().st_mtime_ns == before:
            time.sleep(0.01)
        first.release()


def test_a_disk_without_locks(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock = _lock(tmp_path)
    lock.acquire()
    monkeypatch.setattr(run_lock.socket, "gethostname", lambda: "another")
    with pytest.raises(CheckpointError, match="in use by the run of process"):
        _lock(tmp_path).acquire()
    lock.release()
    _lock(tmp_path).acquire()
