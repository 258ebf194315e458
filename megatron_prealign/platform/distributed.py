"""Process groups: from torchrun's environment to megatron-core's parallel axes."""

import os
import time
import uuid
from datetime import timedelta

import torch
from megatron.core import parallel_state, tensor_parallel
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from megatron_prealign.config import ParallelConfig
from megatron_prealign.platform.device import Platform
from megatron_prealign.platform.mesh import Mesh
from megatron_prealign.platform.open_files import allow_open_files
from megatron_prealign.signals import current_note

# Ranks that import from a slow disk come late; that is no hanging yet.
_LEAST_WAIT = timedelta(minutes=10)
_POLL_SECONDS = 0.01
_MOST_POLL_SECONDS = 0.5  # thousands of ranks ask one store
# After a signal, others may still be importing; but a rank may also have failed, for which torchrun stops the rest.
_WAIT_AFTER_SIGNAL = 10.0


def initialize_distributed(platform: Platform, timeout_minutes: float = 30.0) -> None:
    """Join the process group that torchrun describes; a lone process becomes a group of one.

    A collective that waits longer than `timeout_minutes` for another rank fails.

    The rendezvous variables are torchrun's (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
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


def initialize_model_parallel(parallel: ParallelConfig, seed: int) -> Mesh:
    """Build megatron-core's process groups and seed its random states; return the mesh.

    Groups that this process already has stay as they are.
    """
    if parallel_state.model_parallel_is_initialized():
        return Mesh.current()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        # megatron-core's own saves of the distributed optimizer need them; ours gather nothing.
        create_gloo_process_groups=False,
        distributed_timeout_minutes=parallel.distributed_timeout_minutes,
    )
    # Dropout differs between pipeline stages and between ranks that see other tokens.
    mesh = Mesh.current()
    seed += 100 * mesh.pipeline.rank + 10 * mesh.replicas.rank
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return mesh


def shut_down_distributed() -> None:
    """Leave all process groups after a run that ended well; a failed run must not wait for its peers."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


def join_store(timeout: timedelta) -> tuple[Store, int, int]:
    """Join the store that the environment names; return a part of it that no earlier process knew, rank and world size.

    torchrun starts ranks again with the store that their predecessors wrote to. Its keys still lead to the closed ports
    of processes that are gone, where gloo and nccl wait until their timeout (pytorch issue 135712), and
    TORCHELASTIC_RESTART_COUNT can't tell starts apart, because each host counts for itself. Can go when torch gives
    every start a store of its own. Collective.

    Raises:
        TimeoutError: A rank did not come within the timeout, or ten minutes if that is shorter, or ten seconds after a
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
    while not store.check([f"welcome/{name}"]):  # a wait in the store would put signals off
        _check_wait(deadline, "rank 0 did not come")
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
        raise TimeoutError(f"{problem} in time; see parallel.distributed_timeout_minutes, of which ten count at least")


def _welcome_all(store: Store, world_size: int, timeout: timedelta) -> str:
    """Answer every name that is found until all ranks have joined; that of a dead process never joins."""
    start = uuid.uuid4().hex
    welcomed = set()
    deadline = time.monotonic() + timeout.total_seconds()
    while store.add(f"{start}/joined", 0) < world_size - 1:
        for key in [f"hello/{rank}" for rank in range(1, world_size)]:
            name = store.get(key).decode() if store.check([key]) else None
            if name is not None and name not in welcomed:
                store.set(f"welcome/{name}", start)
                welcomed.add(name)
        _check_wait(deadline, f"not all of {world_size} ranks came")
        time.sleep(_POLL_SECONDS)
    return start
