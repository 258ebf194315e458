"""The order of training samples, and the loader that yields them one optimizer step at a time."""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_prealign.errors import ConfigError, TrainingError

Batch = dict[str, torch.Tensor]
"""tokens, labels, position_ids: int64 [B, S]; loss_mask: float32 [B, S]; loss_group: int16 [B, S]; sample: int64
[B], position in the order."""

_KEYS = ("tokens", "labels", "loss_mask", "position_ids", "loss_group")

Read = Callable[[NDArray[np.int64]], Batch]
"""From the positions of a microbatch's samples, int64 [B], to the microbatch."""

_POLL_SECONDS = 5.0
_AHEAD = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class SampleDataset(Protocol):
    """What the loader reads: samples by position in the order."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Return tokens, labels, loss_mask, position_ids and loss_group, each [S]."""


def step_indices(
    consumed_samples: int,
    *,
    micro_batch_size: int,
    num_microbatches: int,
    data_parallel_rank: int = 0,
    data_parallel_size: int = 1,
) -> NDArray[np.int64]:
    """Return the samples of one rank in the step after `consumed_samples`: int64 [num_microbatches, micro_batch_size].

    Over ranks and microbatches a step covers consumed_samples .. + global batch size, in this order. So the global
    batch is the same set in any layout, and a run resumes in another layout where it stopped.
    """
    shape = (num_microbatches, data_parallel_size, micro_batch_size)
    indices = consumed_samples + np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    return indices[:, data_parallel_rank]


class StepLoader(Iterator[list[Batch]]):
    """Yield the microbatches of each optimizer step.

    Its only state is `consumed_samples`. The next step is read in a thread, or in separate processes, while the
    current one trains; nothing draws from a random generator, so resuming is exact.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        *,
        micro_batch_size: int,
        global_batch_size: int,
        data_parallel_rank: int = 0,
        data_parallel_size: int = 1,
        consumed_samples: int = 0,
        pad_end: bool = False,
        prefetch: bool = True,
        num_workers: int = 0,
        batch_size_at: Callable[[int], int] | None = None,
    ) -> None:
        """Start after `consumed_samples` samples (of all ranks together).

        Args:
            dataset: samples in their global order.
            micro_batch_size: samples of one microbatch on one rank.
            global_batch_size: samples of one step over all ranks.
            data_parallel_rank: this rank on the data-parallel axis.
            data_parallel_size: size of the data-parallel axis.
            consumed_samples: samples already used; where to resume.
            pad_end: fill a last partial step with samples of loss mask 0 (validation) instead of leaving it out.
            prefetch: read one step ahead in a thread.
            num_workers: processes that read; 0 = this one.
            batch_size_at: samples over all ranks of the step after some number of samples; none = global_batch_size.

        Raises:
            ConfigError: if global_batch_size is not a multiple of micro_batch_size * data_parallel_size.
        """
        per_microbatch = micro_batch_size * data_parallel_size
        if global_batch_size % per_microbatch:
            raise ConfigError(
                f"training.global_batch_size {global_batch_size} must be a multiple of training.micro_batch_size "
                f"{micro_batch_size} x data-parallel size {data_parallel_size} = {per_microbatch}"
            )
        self.consumed_samples = consumed_samples
        self._dataset = dataset
        self._micro_batch_size = micro_batch_size
        self._batch_size_at = batch_size_at or (lambda consumed_samples: global_batch_size)
        self._rank, self._size = data_parallel_rank, data_parallel_size
        self._pad_end = pad_end
        self._workers = ReaderProcesses(self._read_microbatch, num_workers) if num_workers else None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="step-loader") if prefetch else None
        self._ahead: tuple[int, Future[list[Batch]]] | None = None

    def __next__(self) -> list[Batch]:
        if not self._has_step(self.consumed_samples):
            self.close()
            raise StopIteration
        batches = self._take(self.consumed_samples)
        self.consumed_samples += self._batch_size_at(self.consumed_samples)
        if self._executor is not None and self._has_step(self.consumed_samples):
            self._ahead = (self.consumed_samples, self._executor.submit(self._read, self.consumed_samples))
        return batches

    def close(self) -> None:
        """End the reading thread and processes; the loader still works, without reading ahead."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        if self._workers is not None:
            self._workers.close()
        self._executor = self._ahead = self._workers = None

    def _has_step(self, consumed_samples: int) -> bool:
        num_needed = 1 if self._pad_end else self._batch_size_at(consumed_samples)
        return consumed_samples + num_needed <= len(self._dataset)

    def _take(self, consumed_samples: int) -> list[Batch]:
        """Return the step that was read ahead if it is the wanted one, else read it now."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == consumed_samples:
            return ahead[1].result()
        return self._read(consumed_samples)

    def _read(self, consumed_samples: int) -> list[Batch]:
        indices = step_indices(
            consumed_samples,
            micro_batch_size=self._micro_batch_size,
            num_microbatches=self._batch_size_at(consumed_samples) // (self._micro_batch_size * self._size),
            data_parallel_rank=self._rank,
            data_parallel_size=self._size,
        )
        if self._workers is not None:
            return self._workers.read(list(indices))
        return [self._read_microbatch(row) for row in indices]

    def _read_microbatch(self, row: NDArray[np.int64]) -> Batch:
        samples = [self._sample(index) for index in row.tolist()]
        batch = {key: torch.stack([sample[key] for sample in samples]) for key in _KEYS}
        return {**batch, "sample": torch.from_numpy(row)}

    def _sample(self, index: int) -> dict[str, Any]:
        if index < len(self._dataset):
            return self._dataset[index]
        sample = self._dataset[0]
        return {**sample, "loss_mask": torch.zeros_like(sample["loss_mask"])}


class ReaderProcesses:
    """Processes that share the microbatches of each step.

    They keep no position: the loader asks for the samples of each microbatch, so a resumed run needs nothing from them.
    torch's DataLoader is not used: it wraps the errors of its workers, reports a death through a signal handler of the
    whole process, wherever the main thread is, and forks again whenever the position moves.
    """

    def __init__(self, read: Read, num_workers: int) -> None:
        """Fork the processes, so that `read` and its mapped files need not be sent; start no threads before."""
        context = multiprocessing.get_context("fork")
        self.processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(read, theirs, os.getpid()), daemon=True)
            process.start()
            # The process alone holds its end: when it dies, reading ours ends.
            theirs.close()
            self.processes.append(process)
            self._connections.append(ours)
        # Runs before multiprocessing sends SIGTERM, which they ignore.
        self._finalizer = Finalize(self, _kill, args=(self.processes,), exitpriority=10)

    def read(self, rows: Sequence[NDArray[np.int64]]) -> list[dict[str, torch.Tensor]]:
        """Return the microbatches of some rows of positions, in their order.

        Raises:
            TrainingError: the data that a process read is unusable.
            RuntimeError: a process died, or failed to read; with its cause.
        """
        size = len(self.processes)
        batches = []
        # With more requests than fit into the pipe, both processes would wait for each other.
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
        # A dead process is detected when its answer is read.
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
    hint = "; the kernel does so when memory runs out" if -exit_code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-exit_code).name}{hint}"


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _serve(read: Read, connection: Connection, parent: int) -> None:
    """Answer until the parent is gone; signals are handled by the parent, which saves and exits by itself."""
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
            # Arrays: tensors would use shared memory, which is small in containers.
            connection.send(answer)
        except BrokenPipeError:
            return
