"""Ranks that torchrun starts again meet in a store that still holds what their predecessors wrote."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from torch._C._distributed_c10d import HashStore

from megatron_prealign.platform.distributed import _be_welcomed, _welcome_all


def test_each_start_in_one_store_gets_a_part_of_its_own() -> None:
    store = HashStore()
    # Of a process that died before it was welcomed.
    store.set("hello/2", "dead")
    starts = []
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(_welcome_all, store, 3, timedelta(seconds=20))
            others = [pool.submit(_be_welcomed, store, rank, timedelta(seconds=20)) for rank in (1, 2)]
            names = {first.result(), *(other.result() for other in others)}
        assert len(names) == 1
        starts += names
    assert len(set(starts)) == 3
