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
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event
from pathlib import Path

from megatron_prealign.data.bake_piece import PieceBaker
from megatron_prealign.data.encoding import limit_threads
from megatron_prealign.data.job import Job
from megatron_prealign.errors import DataError


def bake_locally(job: Job, num_workers: int, on_finished: Callable[[int], None]) -> None:
    """Bake the unfinished pieces of a job with processes of this machine; with one of them in this process.

    Workers that outnumber the pieces become threads of the tokenizer.

    Args:
        job: Whose pieces.
        num_workers: How many cores to use.
        on_finished: Called with the number of each finished piece.

    Raises:
        DataError: If a piece can't be baked, or a worker dies; the other workers have ended by then.
    """
    numbers = job.unfinished()
    num_processes = min(num_workers, len(numbers))
    if num_processes < 2:
        baker = PieceBaker(job, is_parallel=num_workers > 1)
        for number in numbers:
            on_finished(baker(number))
        return
    # spawn: a fork after the tokenizer's threads have started can deadlock.
    context = get_context("spawn")
    stop = context.Event()
    arguments = (job.folder, stop, num_workers // num_processes)
    pool = ProcessPoolExecutor(num_processes, context, _start_worker, arguments)
    try:
        with _plain_tracebacks():
            for future in as_completed([pool.submit(_bake_in_worker, number) for number in numbers]):
                on_finished(future.result())
    except BrokenProcessPool:
        raise DataError(
            "a worker process died (killed, or out of memory). Give the job more memory or fewer --workers and "
            "continue with --resume"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _plain_tracebacks() -> Iterator[None]:
    """Let errors of workers go without the text of the worker's own traceback."""
    try:
        yield
    except (DataError, OSError) as error:
        error.__cause__ = None
        raise


_baker: PieceBaker | None = None  # of this worker process


def _start_worker(folder: Path, stop: Event, num_threads: int) -> None:
    global _baker
    limit_threads(num_threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _baker = PieceBaker(Job.load(folder), num_threads > 1, stop.is_set)


def _die_with_parent() -> None:
    """End this process when its parent is gone: a pool's workers would wait for work for ever."""
    parent = parent_process()
    assert parent is not None  # this is a worker
    wait([parent.sentinel])
    os._exit(1)


def _bake_in_worker(number: int) -> int:
    assert _baker is not None  # _start_worker ran
    return _baker(number)
