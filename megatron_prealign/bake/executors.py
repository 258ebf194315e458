"""Worker processes of this machine.

They use `concurrent.futures`: datatrove's local executor waits forever when a worker is killed.
"""

import gc
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import accumulate
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from tempfile import gettempdir
from typing import Self

from megatron_prealign.bake.job import EncodingSettings, Job
from megatron_prealign.bake.piece import PieceBaker, PieceEncoder
from megatron_prealign.errors import DataError
from megatron_prealign.text.encoders import limit_threads
from megatron_prealign.text.files import Piece
from megatron_prealign.text.tokenizer import Tokenizer

# Most text encoded before the lexicon is compiled; its ids take about half as much on disk.
_BYTES_AHEAD = 256 << 20
# The process that compiles the lexicon has priority: all others wait for it.
_NICENESS = 5


class LocalWorkers:
    """Worker processes of this machine; they begin to encode while the lexicon is still being compiled.

    Workers in excess of the pieces become threads of the tokenizer. A single worker is this process.
    """

    def __init__(self, num_workers: int, num_pieces: int, tokenizer: Tokenizer) -> None:
        """Start `num_workers` processes, or as many as there are pieces."""
        num_processes = max(1, min(num_workers, num_pieces))
        self._num_threads = num_workers // num_processes
        self._tokenizer = tokenizer
        self._pool: ProcessPoolExecutor | None = None
        self._ahead: list[Future[Path | None]] = []
        if num_processes == 1:
            return
        # spawn: a fork after the tokenizer's threads have started can deadlock.
        context = get_context("spawn")
        self._stop = context.Event()
        # Created by the workers, which remove it when this process is killed.
        self._folder = Path(gettempdir(), f"prealign-bake-{secrets.token_hex(8)}")
        # As an argument it would fill a pipe, and each process would start only when the one before has read it.
        tokenizers: Queue[Tokenizer] = context.Queue()
        tokenizers.cancel_join_thread()
        arguments = (self._stop, self._num_threads, self._folder, tokenizers)
        self._pool = ProcessPoolExecutor(num_processes, context, _start_worker, arguments)
        with _interrupts_held():
            for _ in range(num_processes):
                tokenizers.put(tokenizer)
                self._pool.submit(os.getpid)  # any task: the pool starts a process when none is idle

    def encode_ahead(self, settings: EncodingSettings, pieces: Sequence[Piece]) -> None:
        """Begin to encode the first of the pieces that have to be baked."""
        if self._pool is None:
            return
        sizes = accumulate(piece.size for piece in pieces)
        early = [piece for piece, size in zip(pieces, sizes, strict=True) if size <= _BYTES_AHEAD]
        with _interrupts_held():
            self._ahead = [
                self._pool.submit(_encode_in_worker, settings, piece, self._folder / str(number))
                for number, piece in enumerate(early)
            ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes and wait for it."""
        if self._pool:
            self._stop.set()
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            shutil.rmtree(self._folder, ignore_errors=True)

    def bake(self, job: Job, on_finished: Callable[[int], None]) -> None:
        """Bake the unfinished pieces of a job, and end the processes.

        Args:
            job: The job.
            on_finished: Called with the number of each finished piece.

        Raises:
            DataError: If a piece can't be baked, or a worker dies; the other workers have ended by then.
        """
        numbers = job.unfinished()
        try:
            if self._pool is None:
                encoder = PieceEncoder(job.settings.encoding, self._tokenizer, self._num_threads > 1)
                baker = PieceBaker(job, encoder)
                for number in numbers:
                    on_finished(baker(number))
                return
            with self, _plain_tracebacks():
                ahead, pool = self._take_ahead(), self._pool
                with _interrupts_held():
                    tasks = [
                        pool.submit(_bake_in_worker, job.folder, number, ahead.pop(number, None)) for number in numbers
                    ]
                for task in as_completed(tasks):
                    on_finished(task.result())
        except (BrokenProcessPool, MemoryError):
            raise DataError(
                "a worker process died (killed, or out of memory). Give the job more memory or fewer --workers and "
                "continue with --resume"
            ) from None

    def _take_ahead(self) -> dict[int, Path | None]:
        """Return what is encoded already, by piece; pieces that no worker has begun are encoded when they are baked."""
        begun = {number: future for number, future in enumerate(self._ahead) if not future.cancel()}
        self._ahead = []
        return {number: future.result() for number, future in begun.items()}


@contextmanager
def _plain_tracebacks() -> Iterator[None]:
    """Raise the errors of workers without the text of the worker's traceback."""
    try:
        yield
    except (DataError, OSError) as error:
        error.__cause__ = None
        raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Postpone an interrupt, so that processes started meanwhile never get one: the parent handles it."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


_encoder: Callable[[EncodingSettings], PieceEncoder]  # of this worker process


def _start_worker(stop: Event, num_threads: int, folder: Path, tokenizers: "Queue[Tokenizer]") -> None:
    global _encoder
    limit_threads(num_threads)
    os.nice(_NICENESS)
    folder.mkdir(mode=0o700, exist_ok=True)
    threading.Thread(target=_die_with_parent, args=(folder,), daemon=True).start()
    is_parallel = num_threads > 1
    encoder = partial(PieceEncoder, tokenizer=tokenizers.get(), is_parallel=is_parallel, is_stopped=stop.is_set)
    _encoder = lru_cache(maxsize=1)(encoder)
    gc.freeze()  # the collector need not scan the modules again and again


def _die_with_parent(folder: Path) -> None:
    """End this process and remove its files when the parent is gone: workers of a pool would wait forever."""
    parent = parent_process()
    assert parent is not None  # this is a worker
    wait([parent.sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _encode_in_worker(settings: EncodingSettings, piece: Piece, path: Path) -> Path | None:
    return _encoder(settings).encode_ahead(piece, path)


def _bake_in_worker(folder: Path, number: int, ahead: Path | None) -> int:
    return _baker(folder)(number, ahead)


@lru_cache(maxsize=1)
def _baker(folder: Path) -> PieceBaker:
    job = Job.load(folder)
    return PieceBaker(job, _encoder(job.settings.encoding))
