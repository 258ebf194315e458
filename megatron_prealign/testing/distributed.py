"""Run a function on several real gloo ranks.

Ranks are forked from a server process that has imported megatron-core once, which takes seconds, and has started no
threads. The calling test process is never forked.
"""

import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

GRACE_SECONDS = 20.0
PRELOADED = ("megatron_prealign.training.setup", "megatron_prealign.checkpoint.sharded")


def run_distributed(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_seconds: float = 240.0
) -> list[Any]:
    """Call `function(*args)` on `world_size` ranks with torchrun's environment and return their results.

    Args:
        function: importable from a module; joins the process group by itself.
        world_size: number of ranks.
        args: picklable arguments, the same for each rank.
        timeout_seconds: for all ranks together.

    Returns:
        The picklable result of each rank, in rank order.

    Raises:
        RuntimeError: A rank failed, died or ran out of time; carries the first traceback.
    """
    processes, readers = start_ranks(function, world_size, *args)
    try:
        results = _collect(readers, timeout_seconds)
        # Let them close what they use.
        for process in processes:
            process.join(GRACE_SECONDS)
        return results
    finally:
        for process in processes:
            process.kill()
            process.join()


def start_ranks(
    function: Callable[..., Any], world_size: int, *args: Any
) -> tuple[list[BaseProcess], list[Connection]]:
    """Start `function(*args)` on `world_size` ranks, as `run_distributed` does, and return at once.

    Returns:
        The processes, and a connection per rank with its outcome; the caller closes both.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    port = _free_port()
    readers: list[Connection] = []
    processes: list[BaseProcess] = []
    for rank in range(world_size):
        reader, writer = context.Pipe(duplex=False)
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        process: BaseProcess = context.Process(
            target=_run_rank, args=(function, args, environment, writer), daemon=False
        )
        process.start()
        writer.close()
        readers.append(reader)
        processes.append(process)
    return processes, readers


def _collect(readers: list[Connection], timeout_seconds: float) -> list[Any]:
    results: dict[int, Any] = {}
    deadline = time.monotonic() + timeout_seconds
    while len(results) < len(readers):
        pending = [reader for rank, reader in enumerate(readers) if rank not in results]
        ready = wait(pending, timeout=max(deadline - time.monotonic(), 0))
        if not ready:
            raise RuntimeError(f"ranks {sorted(set(range(len(readers))) - set(results))} did not end in time")
        for reader in ready:
            rank = readers.index(reader)  # type: ignore[arg-type]
            try:
                succeeded, result = pickle.loads(readers[rank].recv_bytes())
            except EOFError:
                raise RuntimeError(f"rank {rank} died without a message") from None
            if not succeeded:
                raise RuntimeError(f"rank {rank} failed:\n{result}")
            results[rank] = result
    return [results[rank] for rank in range(len(readers))]


def _run_rank(function: Callable[..., Any], args: tuple[Any, ...], environment: dict[str, Any], writer: Any) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()}, MASTER_ADDR="127.0.0.1")
    # Ranks share the machine's cores; more threads each would only fight.
    torch.set_num_threads(1)
    try:
        # Plain pickle: multiprocessing's own would share tensors with a process that has ended.
        message = pickle.dumps((True, function(*args)))
    except BaseException:
        message = pickle.dumps((False, traceback.format_exc()))
    writer.send_bytes(message)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port
