"""Who bakes the pieces: processes of this machine, or tasks of a Slurm or Ray cluster.

Local runs use `concurrent.futures`: datatrove's local executor waits for ever when a worker is killed.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache, partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Self

from megatron_prealign.data.bake_piece import PieceBaker, load_encoder
from megatron_prealign.data.encoding import Backend, Encoder, limit_threads
from megatron_prealign.data.job import Job
from megatron_prealign.data.tokenizer import Tokenizer
from megatron_prealign.errors import DataError


class LocalWorkers:
    """Processes of this machine that bake; they load the tokenizer while the lexicon is still being compiled.

    Workers that outnumber the pieces become threads of the tokenizer; with one process it is this one.
    """

    def __init__(self, num_workers: int, num_pieces: int, tokenizer_path: Path, backend: Backend) -> None:
        """Start the processes.

        Args:
            num_workers: How many cores to use.
            num_pieces: How many pieces there are at most.
            tokenizer_path: What the text is encoded with.
            backend: The library that encodes.
        """
        num_processes = max(1, min(num_workers, num_pieces))
        num_threads = num_workers // num_processes
        self._load = partial(load_encoder, tokenizer_path, backend, num_threads > 1)
        self._pool: ProcessPoolExecutor | None = None
        if num_processes == 1:
            return
        # spawn: a fork after the tokenizer's threads have started can deadlock.
        context = get_context("spawn")
        self._stop = context.Event()
        arguments = (self._stop, num_threads, self._load)
        self._pool = ProcessPoolExecutor(num_processes, context, _start_worker, arguments)
        for _ in range(num_processes):
            self._pool.submit(_do_nothing)  # a process starts when there is something to do

    def __enter__(self) -> Self:
        """Return the workers."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, and wait for that."""
        if self._pool:
            self._stop.set()
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def bake(self, job: Job, on_finished: Callable[[int], None]) -> None:
        """Bake the unfinished pieces of a job, and end the processes.

        Args:
            job: Whose pieces.
            on_finished: Called with the number of each finished piece.

        Raises:
            DataError: If a piece can't be baked, or a worker dies; the other workers have ended by then.
        """
        numbers = job.unfinished()
        if self._pool is None:
            baker = PieceBaker(job, *self._load())
            for number in numbers:
                on_finished(baker(number))
            return
        try:
            with self, _plain_tracebacks():
                futures = [self._pool.submit(_bake_in_worker, job.folder, number) for number in numbers]
                for future in as_completed(futures):
                    on_finished(future.result())
        except BrokenProcessPool:
            raise DataError(
                "a worker process died (killed, or out of memory). Give the job more memory or fewer --workers and "
                "continue with --resume"
            ) from None


@contextmanager
def _plain_tracebacks() -> Iterator[None]:
    """Let errors of workers go without the text of the worker's own traceback."""
    try:
        yield
    except (DataError, OSError) as error:
        error.__cause__ = None
        raise


# Of this worker process.
_stop: Event
_loaded: tuple[Tokenizer, Encoder]


def _start_worker(stop: Event, num_threads: int, load: Callable[[], tuple[Tokenizer, Encoder]]) -> None:
    global _stop, _loaded
    limit_threads(num_threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _stop, _loaded = stop, load()


def _die_with_parent() -> None:
    """End this process when its parent is gone: a pool's workers would wait for work for ever."""
    parent = parent_process()
    assert parent is not None  # this is a worker
    wait([parent.sentinel])
    os._exit(1)


def _do_nothing() -> None:
    pass


def _bake_in_worker(folder: Path, number: int) -> int:
    return _baker(folder)(number)


@lru_cache(maxsize=1)
def _baker(folder: Path) -> PieceBaker:
    return PieceBaker(Job.load(folder), *_loaded, _stop.is_set)
