"""The order of training samples, and the loader that hands them out one optimizer step at a time."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_prealign.dataset.workers import ReaderProcesses
from megatron_prealign.errors import ConfigError

Batch = dict[str, torch.Tensor]
"""tokens, labels, position_ids: int64 [B, S]; loss_mask: float32 [B, S]; loss_group: int16 [B, S]; sample: int64
[B], its position in the order."""

_KEYS = ("tokens", "labels", "loss_mask", "position_ids", "loss_group")


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
    """Return the samples of one rank in the step after `consumed_samples`.

    Over ranks and microbatches a step covers consumed_samples .. + global batch size, in this order: so the global
    batch is the same set at any layout, and a run resumes at another layout where it left off.

    Returns:
        int64 [num_microbatches, micro_batch_size] positions in the sample order.
    """
    shape = (num_microbatches, data_parallel_size, micro_batch_size)
    indices = consumed_samples + np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    return indices[:, data_parallel_rank]


class StepLoader(Iterator[list[Batch]]):
    """Hand out the microbatches of one optimizer step after the other.

    Its only state is `consumed_samples`. The next step is read in a thread, or in processes of its own, while the
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
            num_workers: processes that read; 0 = none but this.
            batch_size_at: samples of the step that comes after so many, over all ranks; none = global_batch_size.

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
        """Return this rank's microbatches of the next step; StopIteration when the dataset holds no further step."""
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
        """Return the step read ahead where it is the wanted one, else read it now."""
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
        return {**self._collate([self._sample(index) for index in row.tolist()]), "sample": torch.from_numpy(row)}

    def _sample(self, index: int) -> dict[str, Any]:
        if index < len(self._dataset):
            return self._dataset[index]
        sample = self._dataset[0]
        return {**sample, "loss_mask": torch.zeros_like(sample["loss_mask"])}

    @staticmethod
    def _collate(samples: list[dict[str, Any]]) -> Batch:
        return {key: torch.stack([sample[key] for sample in samples]) for key in _KEYS}
