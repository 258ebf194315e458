"""One run at a time in one output folder, on one host or on several that share a disk.

    <run_path>/run.lock      locked by the first rank for as long as it lives; the file itself means nothing
    <run_path>/run.holder    who that is; touched every few seconds, removed at the end

The kernel drops the lock of a process that dies in any way, so a killed run leaves nothing in the way. NFS, Lustre
mounted with flock, GPFS, CephFS and BeeGFS keep such locks for all their clients. Where a file system keeps them a
host, or not at all, the second run sees that the holder on another host is still touching its file, and refuses too;
it watches for that only where the holder's host is not its own and the file is recent.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

from megatron_prealign.errors import CheckpointError
from megatron_prealign.files import write_if_possible
from megatron_prealign.platform.agreement import on_first_rank

LOCK = "run.lock"
HOLDER = "run.holder"
TOUCH_SECONDS = 5.0
# A file that nobody touched for this long is a dead run's, however far the clocks of the hosts are apart.
STALE_SECONDS = 600.0


@contextlib.contextmanager
def run_lock(run_path: str | Path) -> Iterator[None]:
    """Keep other runs out of a run folder inside the context; collective.

    Raises:
        PrealignError: Another run holds it; raised on all ranks.
    """
    lock = _Lock(Path(run_path))
    on_first_rank(lock.acquire)
    try:
        yield
    finally:
        if torch.distributed.get_rank() == 0:
            lock.release()


class _Lock:
    """The lock of one run folder, held by this process."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._holder = run / HOLDER
        self._ended = threading.Event()
        self._touching = threading.Thread(target=self._touch, name="run-lock", daemon=True)
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            CheckpointError: Another run holds it.
        """
        self._run.mkdir(parents=True, exist_ok=True)
        # Opened once and never again: closing any descriptor of it would drop the lock.
        self._descriptor = os.open(self._run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        if self._is_locked_by_another() or self._is_touched_elsewhere():
            os.close(self._descriptor)
            raise self._refusal()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"host": socket.gethostname(), "process": os.getpid(), "since": started}
        # The lock itself needs no room.
        write_if_possible(self._holder, json.dumps(holder) + "\n")
        self._touching.start()

    def release(self) -> None:
        """Give the lock up."""
        self._ended.set()
        self._touching.join()
        with contextlib.suppress(OSError):
            self._holder.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _is_locked_by_another(self) -> bool:
        """Lock the file, unless another process has."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # A file system without locks.
        return False

    def _touch(self) -> None:
        while not self._ended.wait(TOUCH_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._holder)

    def _read_holder(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._holder.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def _is_touched_elsewhere(self) -> bool:
        """Watch whether a holder on another host is alive; at once, where there is none or it is long dead."""
        first = self._touched()
        if self._read_holder().get("host") in (None, socket.gethostname()) or time.time() - first > STALE_SECONDS:
            return False
        end = time.monotonic() + 3 * TOUCH_SECONDS
        while time.monotonic() < end:
            time.sleep(TOUCH_SECONDS / 5)
            if self._touched() != first:
                return True
        return False

    def _touched(self) -> float:
        try:
            # Opened: a network disk asks its server then, where a mere stat may be answered from memory.
            with self._holder.open() as file:
                return os.fstat(file.fileno()).st_mtime
        except OSError:
            return 0.0

    def _refusal(self) -> CheckpointError:
        holder = self._read_holder()
        who = "another run"
        if holder:
            who = f"the run of process {holder['process']} on host {holder['host']}, since {holder['since']}"
        return CheckpointError(
            f"training.run_path {self._run} is in use by {who}: end it, or name another folder; if its host is gone "
            f"for good and the lock outlived it, delete {self._run / LOCK} and {self._holder}"
        )
