"""Processes that read microbatches ahead of training.

They keep no position: the loader asks for the samples of each microbatch, so a resumed run needs nothing of them. They
draw from no random generator.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_prealign.errors import TrainingError

Read = Callable[[NDArray[np.int64]], dict[str, torch.Tensor]]
"""From the positions of a microbatch's samples, int64 [B], to the microbatch."""

_POLL_SECONDS = 5.0
_AHEAD = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class ReaderProcesses:
    """A number of processes that share the microbatches of each step."""

    def __init__(self, read: Read, num_workers: int) -> None:
        """Fork the processes, so that `read` and the files it has mapped need not be sent; start no threads before."""
        context = multiprocessing.get_context("fork")
        self.processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(read, theirs, os.getpid()), daemon=True)
            process.start()
            # Only the process holds its end: when it dies, reading ours ends.
            theirs.close()
            self.processes.append(process)
            self._connections.append(ours)
        # Before multiprocessing would ask them to end with SIGTERM, which they leave to this process.
        self._finalizer = Finalize(self, _kill, args=(self.processes,), exitpriority=10)

    def read(self, rows: Sequence[NDArray[np.int64]]) -> list[dict[str, torch.Tensor]]:
        """Return the microbatches of some rows of positions, in their order.

        Raises:
            TrainingError: what a process read can't be trained on.
            RuntimeError: a process died, or failed to read; with its cause.
        """
        size = len(self.processes)
        batches = []
        # A process that is asked for more than it can hand over would wait for this one, and this one for it.
        for index, row in enumerate(rows[: _AHEAD * size]):
            self._ask(index % size, row)
        for index in range(len(rows)):
            batches.append(self._take(index % size))
            if index + _AHEAD * size < len(rows):
                self._ask(index % size, rows[index + _AHEAD * size])
        return batches

    def close(self) -> None:
        """End the processes."""
        self._finalizer()

    def _ask(self, worker: int, row: NDArray[np.int64]) -> None:
        # One that is gone is found out when its answer is read.
        with contextlib.suppress(OSError):
            self._connections[worker].send(row)

    def _take(self, worker: int) -> dict[str, torch.Tensor]:
        process = self.processes[worker]
        name = f"data worker {worker + 1} of {len(self.processes)} (process {process.pid})"
        try:
            batch, failure = self._connections[worker].recv()
        except (EOFError, OSError):
            process.join(_POLL_SECONDS)
            raise RuntimeError(f"{name} {_describe_end(process.exitcode)}") from None
        if isinstance(failure, TrainingError):
            raise failure
        if failure:
            raise RuntimeError(f"{name} failed:\n{failure}")
        return {key: torch.from_numpy(array) for key, array in batch.items()}


def _describe_end(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}"
    hint = "; the kernel does so where memory is short" if -exit_code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-exit_code).name}{hint}"


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _serve(read: Read, connection: Connection, parent: int) -> None:
    """Answer until the parent is gone; signals are for the parent, which saves and ends by itself."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    while True:
        while not connection.poll(_POLL_SECONDS):
            if os.getppid() != parent:
                return
        try:
            row = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[dict[str, NDArray[Any]], str | TrainingError]
            answer = {key: tensor.numpy() for key, tensor in read(row).items()}, ""
        except TrainingError as error:
            answer = {}, error
        except Exception:
            answer = {}, traceback.format_exc()
        try:
            # Arrays: tensors would be put into shared memory, of which containers have little.
            connection.send(answer)
        except BrokenPipeError:
            return
