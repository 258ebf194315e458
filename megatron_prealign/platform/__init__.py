"""Devices and backends: cuda with nccl, cpu with gloo, behind one small interface."""

import warnings

# megatron-core warns on import, once a module, that fused packages are missing; which implementation
# runs, and why, is in the log instead.
for _message in (".*Apex (is|are) not installed.*", "full scope is deprecated.*"):
    warnings.filterwarnings("ignore", message=_message, category=UserWarning)

from megatron_prealign.platform.device import Platform, select_platform
from megatron_prealign.platform.distributed import (
    Layout,
    initialize_distributed,
    initialize_model_parallel,
    shut_down_distributed,
)

__all__ = [
    "Layout",
    "Platform",
    "initialize_distributed",
    "initialize_model_parallel",
    "select_platform",
    "shut_down_distributed",
]
