"""Devices, process groups and the mesh of ranks: one interface to cuda with nccl and cpu with gloo."""

import megatron_prealign.platform.megatron  # noqa: F401 - silences what megatron-core says in vain
from megatron_prealign.platform.device import Platform, select_platform
from megatron_prealign.platform.distributed import (
    initialize_distributed,
    initialize_model_parallel,
    shut_down_distributed,
)
from megatron_prealign.platform.mesh import Mesh

__all__ = [
    "Mesh",
    "Platform",
    "initialize_distributed",
    "initialize_model_parallel",
    "select_platform",
    "shut_down_distributed",
]
