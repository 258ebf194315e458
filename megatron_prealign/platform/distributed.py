"""Process groups, from torchrun's environment to megatron-core's parallel axes, and the random states of a process."""

import os
import random
import resource
import time
import uuid
from datetime import timedelta
from typing import Any

import megatron.core
import numpy as np
import torch
from megatron.core import parallel_state, tensor_parallel
from packaging.version import Version
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from megatron_prealign.config import ParallelConfig
from megatron_prealign.errors import ConfigError
from megatron_prealign.platform.agreement import leave_hosts, meet_hosts
from megatron_prealign.platform.device import Platform
from megatron_prealign.platform.mesh import Mesh
from megatron_prealign.signals import current_note

# Ranks that import from a slow disk come late without hanging.
_LEAST_WAIT = timedelta(minutes=10)
_POLL_SECONDS = 0.01
_MOST_POLL_SECONDS = 0.5  # thousands of ranks ask one store
# After a signal, others may still be importing; but a rank may also have failed, for which torchrun stops the rest.
_WAIT_AFTER_SIGNAL = 10.0
# Measured with all groups of a run over gloo, which connects each rank of a group with each other: 74 + 7 a rank, and a
# rank more each on the rank that keeps the store (tests/platform/test_open_files.py). nccl opens no such meshes.
GLOO_FILES_PER_RANK = 8
_OTHER_FILES = 512
"""Of libraries, datasets, checkpoints and loader processes."""

RandomStates = dict[str, Any]
"""Plain values and tensors, by generator."""


def initialize_distributed(platform: Platform, timeout_minutes: float = 30.0) -> None:
    """Join the process group of torchrun's variables (RANK, WORLD_SIZE, ...); without them, make a group of one.

    A collective that waits longer than `timeout_minutes` for another rank fails.
    """
    platform.activate()
    if torch.distributed.is_initialized():
        return
    timeout = timedelta(minutes=timeout_minutes)
    store, rank, world_size = join_store(timeout) if "RANK" in os.environ else (HashStore(), 0, 1)
    allow_open_files(platform.backend, world_size)
    torch.distributed.init_process_group(
        platform.backend, store=store, rank=rank, world_size=world_size, timeout=timeout
    )
    # nccl's watchdog ends a process that lost contact before it could ask the hosts.
    if platform.backend == "gloo" and world_size > 1:
        meet_hosts()


def initialize_model_parallel(parallel: ParallelConfig, seed: int) -> Mesh:
    """Build megatron-core's process groups and seed all random generators; return the mesh.

    Does nothing if this process already has its groups.
    """
    if parallel_state.model_parallel_is_initialized():
        return Mesh.current()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        # Only megatron-core's own saves of the distributed optimizer need them.
        create_gloo_process_groups=False,
        distributed_timeout_minutes=parallel.distributed_timeout_minutes,
    )
    # Dropout must differ between pipeline stages and between ranks with different tokens.
    mesh = Mesh.current()
    seed += 100 * mesh.pipeline.rank + 10 * mesh.replicas.rank
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return mesh


def can_free_sent_outputs(interleaved: bool) -> bool:
    """Return whether a pipeline stage on GPUs may free an output as soon as sending it has begun.

    Interleaved schedules send during the computation (`overlap_p2p_comm`), and megatron-core before 0.18.2 frees the
    output while NCCL may still read it (its PR 4047). Can go when pyproject.toml asks for 0.18.2.
    """
    return not interleaved or Version(megatron.core.__version__) >= Version("0.18.2")


def shut_down_distributed() -> None:
    """Leave all process groups after a successful run; a failed one must not wait for its peers."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        leave_hosts()
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


def join_store(timeout: timedelta) -> tuple[Store, int, int]:
    """Join the store of the environment; return a new part of it for this start, rank and world size; collective.

    torchrun restarts ranks with the store of their predecessors. Its keys hold closed ports of ended processes, on
    which gloo and nccl wait until their timeout (pytorch issue 135712). TORCHELASTIC_RESTART_COUNT does not identify a
    start, because each host counts its own. Can go when torch gives every start its own store.

    Raises:
        TimeoutError: A rank did not join within the timeout, or ten minutes if that is shorter, or ten seconds after a
            signal to stop.
    """
    timeout = max(timeout, _LEAST_WAIT)
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    start = _welcome_all(store, world_size, timeout) if rank == 0 else _be_welcomed(store, rank, timeout)
    return PrefixStore(start, store), rank, world_size


def _be_welcomed(store: Store, rank: int, timeout: timedelta) -> str:
    name = uuid.uuid4().hex
    store.set(f"hello/{rank}", name)
    deadline = time.monotonic() + timeout.total_seconds()
    pause = _POLL_SECONDS
    while not store.check([f"welcome/{name}"]):  # a wait in the store would delay signals
        _check_wait(deadline, "rank 0 did not join")
        time.sleep(pause)
        pause = min(2 * pause, _MOST_POLL_SECONDS)
    start = store.get(f"welcome/{name}").decode()
    store.add(f"{start}/joined", 1)
    return start


def _check_wait(deadline: float, problem: str) -> None:
    note = current_note()
    if note is not None and note.age() > _WAIT_AFTER_SIGNAL:
        raise TimeoutError(f"{problem} within {_WAIT_AFTER_SIGNAL:.0f} seconds after {note.name}")
    if time.monotonic() > deadline:
        raise TimeoutError(
            f"{problem} within parallel.distributed_timeout_minutes (at least 10); see the other ranks' logs"
        )


def _welcome_all(store: Store, world_size: int, timeout: timedelta) -> str:
    """Answer every name until all ranks have joined; dead processes of an earlier start never join."""
    start = uuid.uuid4().hex
    welcomed = set()
    deadline = time.monotonic() + timeout.total_seconds()
    while store.add(f"{start}/joined", 0) < world_size - 1:
        for key in [f"hello/{rank}" for rank in range(1, world_size)]:
            name = store.get(key).decode() if store.check([key]) else None
            if name is not None and name not in welcomed:
                store.set(f"welcome/{name}", start)
                welcomed.add(name)
        _check_wait(deadline, f"not all of {world_size} ranks joined")
        time.sleep(_POLL_SECONDS)
    return start


def get_random_states() -> RandomStates:
    """Return the states of the generators of Python, numpy, torch and megatron-core."""
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    words = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": words}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        # Those that differ between tensor-parallel ranks, and those that do not.
        "megatron": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }


def set_random_states(states: RandomStates) -> None:
    """Restore the states that `get_random_states` returned."""
    numpy = states["numpy"]
    words = numpy["state"]["key"].numpy().astype(np.uint32)
    random.setstate(states["python"])
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": words}})
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    tensor_parallel.get_cuda_rng_tracker().set_states(states["megatron"])


def device_of(states: RandomStates) -> str:
    """Return "cpu" or "cuda" by the size of the states: those of a CPU's generator are far larger."""
    sizes = {state.numel() for state in states["megatron"].values()}
    return "cpu" if states["torch"].numel() in sizes else "cuda"


def allow_open_files(backend: str, world_size: int) -> None:
    """Raise this process's limit of open files to what a run of `world_size` ranks needs.

    Raises:
        ConfigError: The system's hard limit is lower.
    """
    needed = _OTHER_FILES + (GLOO_FILES_PER_RANK * world_size if backend == "gloo" else 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{world_size} ranks over {backend} need up to {needed} open files in each process, but the hard limit "
            f"here is {hard}; raise it (`ulimit -Hn`, the limits of the batch system or container)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
