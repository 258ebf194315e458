"""Process groups: from torchrun's environment to megatron-core's parallel axes."""

import os
from datetime import timedelta

import torch
from megatron.core import parallel_state, tensor_parallel
from torch._C._distributed_c10d import HashStore

from megatron_prealign.config import ParallelConfig
from megatron_prealign.platform.device import Platform
from megatron_prealign.platform.mesh import Mesh
from megatron_prealign.platform.rendezvous import join_store


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
