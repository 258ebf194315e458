"""One batch of the bake: raw lines in, packed arrays out. This is what a worker process runs."""

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.data.codeswitch import SwitchCounts, codeswitch
from megatron_prealign.data.documents import LineBatch, parse_batch
from megatron_prealign.data.indexed import optimal_dtype
from megatron_prealign.data.switch_table import SwitchTable
from megatron_prealign.data.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.errors import DataError

# Batches under way for each worker: enough that none waits, few enough to bound memory.
_IN_FLIGHT_PER_WORKER = 3


@dataclass(frozen=True)
class BatchSettings:
    """All that the outcome of a batch depends on besides its lines."""

    tokenizer_path: Path
    json_key: str
    table: SwitchTable
    ratio: float
    seed: int
    append_eod: bool


@dataclass(frozen=True)
class BakedBatch:
    """The documents of a batch, ready to be appended."""

    tokens: NDArray[Any]
    """All sequences back to back, in the type they are stored in: [T]."""
    sequence_lengths: NDArray[np.int64]
    """Tokens of each sequence: [S]."""
    sequences_per_document: NDArray[np.int64]
    """1, or 0 for an empty document: [D]."""
    records: NDArray[np.int32]
    """Switch records, relative to their sequence: [N, 4]."""
    record_counts: NDArray[np.int64]
    """Records of each sequence: [S]."""
    counts: SwitchCounts
    consumed: int
    """Bytes of input read up to the end of this batch."""


class BatchBaker:
    """Tokenizes and code-switches batches."""

    def __init__(self, settings: BatchSettings, tokenizer: Tokenizer | None = None) -> None:
        """Load the tokenizer unless it is given."""
        self._settings = settings
        self._tokenizer = tokenizer or load_tokenizer(settings.tokenizer_path)
        self._dtype = optimal_dtype(self._tokenizer.vocab_size)

    def __call__(self, batch: LineBatch) -> BakedBatch:
        """Bake one batch.

        Raises:
            DataError: If a line holds no text.
        """
        settings = self._settings
        texts = parse_batch(batch, settings.json_key)
        encoded = self._tokenizer.encode_batch(texts)
        if settings.append_eod:
            for ids in encoded:
                # An empty document stays empty, as in Megatron's preprocessing.
                if ids:
                    ids.append(self._tokenizer.eod_id)  # type: ignore[arg-type]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        tokens = np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=int(offsets[-1]))
        switched = codeswitch(tokens, offsets, settings.table, settings.ratio, settings.seed)
        new_lengths = np.diff(switched.offsets)
        is_filled = new_lengths > 0
        return BakedBatch(
            tokens=switched.tokens.astype(self._dtype),
            sequence_lengths=new_lengths[is_filled],
            sequences_per_document=is_filled.astype(np.int64),
            records=switched.records,
            record_counts=switched.record_counts[is_filled],
            counts=switched.counts,
            consumed=batch.consumed,
        )


def bake_batches(
    batches: Iterable[LineBatch], settings: BatchSettings, tokenizer: Tokenizer, num_workers: int
) -> Iterator[BakedBatch]:
    """Bake batches in processes of their own and yield the results in order; with one worker, in this process.

    Raises:
        DataError: If a line holds no text, or a worker dies.
    """
    if num_workers == 1:
        yield from map(BatchBaker(settings, tokenizer), batches)
        return
    # spawn: a fork after the tokenizer's threads have started can deadlock.
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker, (settings,))
    pending: deque[Future[BakedBatch]] = deque()
    try:
        for batch in batches:
            pending.append(pool.submit(_bake_in_worker, batch))
            if len(pending) >= _IN_FLIGHT_PER_WORKER * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "a worker process died (killed, or out of memory); nothing was written. Give the job more memory or fewer "
            "--workers, and look for a very long line in the input"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_baker: BatchBaker | None = None  # of this worker process


def _start_worker(settings: BatchSettings) -> None:
    global _baker
    # One thread a worker: the pool is what fills the cores. An interrupt is the parent's to handle.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _baker = BatchBaker(settings)


def _bake_in_worker(batch: LineBatch) -> BakedBatch:
    assert _baker is not None  # _start_worker ran
    return _baker(batch)
