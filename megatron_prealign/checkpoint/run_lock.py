"""Allow one run at a time in a run folder, also between hosts that share a disk.

    <run_path>/run.lock      locked by rank 0 while it lives; only the lock counts, not the file
    <run_path>/run.holder    host and process of the holder; touched every few seconds, removed at the end

The kernel releases the lock of a process that dies, so a killed run blocks nobody. NFS, Lustre mounted with flock,
GPFS, CephFS and BeeGFS share such locks between hosts. On other file systems the second run sees that another host
still touches its file, and refuses too; it waits for that only if the file is recent and from another host.
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
# A file not touched for this long belongs to a dead run, even if the hosts' clocks differ.
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
        # Opened only once: closing any descriptor of the file releases the lock.
        self._descriptor = os.open(self._run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        if self._is_locked_by_another() or self._is_touched_elsewhere():
            os.close(self._descriptor)
            raise self._refusal()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"host": socket.gethostname(), "process": os.getpid(), "since": started}
        # A full disk must not end the run: the lock needs no space.
        write_if_possible(self._holder, json.dumps(holder) + "\n")
        self._touching.start()

    def release(self) -> None:
        """Release the lock."""
        self._ended.set()
        self._touching.join()
        with contextlib.suppress(OSError):
            self._holder.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _is_locked_by_another(self) -> bool:
        """Lock the file; return whether another process has it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # a file system without locks
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
        """Return whether a holder on another host is alive; waits only if there may be one."""
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
            # Opening makes a network disk ask its server; a stat may come from a cache.
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
            f"training.run_path {self._run} is in use by {who}: stop it, or name another folder; if its host is lost "
            f"and the lock remains, delete {self._run / LOCK} and {self._holder}"
        )
