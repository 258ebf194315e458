"""How many files a rank opens, by the number of ranks, and a limit that is too low."""

import os
import resource

import pytest
import torch

from megatron_prealign.config import ParallelConfig
from megatron_prealign.errors import ConfigError
from megatron_prealign.platform import (
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
    shut_down_distributed,
)
from megatron_prealign.platform.distributed import GLOO_FILES_PER_RANK, allow_open_files
from megatron_prealign.testing import run_distributed


def _count() -> int:
    initialize_distributed(select_platform("cpu"))
    initialize_model_parallel(ParallelConfig(), seed=1)
    torch.distributed.barrier()
    num_files = len(os.listdir("/proc/self/fd"))
    torch.distributed.barrier()  # nobody closes connections before all have counted
    shut_down_distributed()
    return num_files


@pytest.mark.slow
def test_open_files_grow_by_seven_a_rank() -> None:
    counts = {world_size: run_distributed(_count, world_size) for world_size in (4, 16)}
    few, many = (set(counts[world_size][1:]) for world_size in (4, 16))
    assert max(many) - max(few) == 7 * (16 - 4)
    # The first rank also keeps the store.
    assert counts[16][0] - counts[4][0] == GLOO_FILES_PER_RANK * (16 - 4)
    assert max(many) < 100 + GLOO_FILES_PER_RANK * 16


def _raise_limits() -> tuple[tuple[int, int], str]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4000))
    allow_open_files("nccl", 2048)
    allow_open_files("gloo", 100)
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(ConfigError) as refused:
        allow_open_files("gloo", 2048)
    return raised, str(refused.value)


def test_a_limit_is_raised_as_far_as_the_system_allows() -> None:
    ((raised, refused),) = run_distributed(_raise_limits, 1)
    assert raised == (512 + 800, 4000)
    assert (
        "2048 ranks over gloo need up to 16896 open files in each process, but the hard limit here is 4000" in refused
    )
