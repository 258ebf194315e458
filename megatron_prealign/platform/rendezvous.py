"""A fresh start in an old store: torchrun starts ranks again with the store that their predecessors wrote to.

Its keys still lead to the closed ports of processes that are gone, where gloo and nccl wait until their timeout
(pytorch issue 135712). TORCHELASTIC_RESTART_COUNT can't tell starts apart, because each host counts for itself.
This can go when torch gives every start a store of its own.
"""

import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

# Ranks that import from a slow disk come late; that is no hanging yet.
_LEAST_WAIT = timedelta(minutes=10)
_POLL_SECONDS = 0.01


def join_store(timeout: timedelta) -> tuple[Store, int, int]:
    """Join the store that the environment names; return a part of it that no earlier process knew, rank and world size.

    Collective.

    Raises:
        TimeoutError: A rank did not come within the timeout, or ten minutes if that is shorter.
    """
    timeout = max(timeout, _LEAST_WAIT)
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    start = _welcome_all(store, world_size, timeout) if rank == 0 else _be_welcomed(store, rank)
    return PrefixStore(start, store), rank, world_size


def _be_welcomed(store: Store, rank: int) -> str:
    name = uuid.uuid4().hex
    store.set(f"hello/{rank}", name)
    start = store.get(f"welcome/{name}").decode()
    store.add(f"{start}/joined", 1)
    return start


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
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {world_size} ranks came within {timeout.total_seconds():.0f} seconds")
        time.sleep(_POLL_SECONDS)
    return start
