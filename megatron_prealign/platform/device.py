"""The differences between cuda+nccl and cpu+gloo, and the peak speed of GPUs."""

import ctypes
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import psutil
import torch

from megatron_prealign.config.counts import PEAK_TERAFLOPS
from megatron_prealign.errors import ConfigError
from megatron_prealign.platform import cpu
from megatron_prealign.platform.matrix_products import multiply_fast

# mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4


@dataclass(frozen=True)
class Platform:
    """One device of this process and the collective backend that serves it."""

    name: Literal["cuda", "cpu"]
    backend: Literal["nccl", "gloo"]
    device: torch.device

    def synchronize(self) -> None:
        """Wait until queued device work is done; call it before reading a clock."""
        if self.name == "cuda":
            torch.cuda.synchronize(self.device)

    def memory_bytes(self) -> int:
        """Return the peak of allocated GPU memory, or the resident memory of the process on cpu, in bytes."""
        if self.name == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return int(psutil.Process().memory_info().rss)

    def peak_flops(self) -> float | None:
        """Return the peak dense 16-bit FLOP/s of the GPU; None on cpu, or if it is unknown."""
        return peak_flops(torch.cuda.get_device_name(self.device)) if self.name == "cuda" else None

    def activate(self) -> None:
        """Make this the device that megatron-core uses in this process."""
        if self.name == "cuda":
            torch.cuda.set_device(self.device)
        else:
            _keep_freed_memory()
            multiply_fast()
            cpu.install()


def select_platform(device: Literal["auto", "cuda", "cpu"], local_rank: int = 0) -> Platform:
    """Return the platform that `device` names; auto is cuda if a GPU is visible.

    Without torchrun, a process that sees one GPU uses it, whatever its local rank (Slurm's --gpus-per-task=1).

    Raises:
        ConfigError: cuda was asked for and no GPU, or not enough GPUs, are visible.
    """
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and visible == 0):
        return Platform("cpu", "gloo", torch.device("cpu"))
    if visible == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        local_rank = 0
    if local_rank >= visible:
        raise ConfigError(
            f"local rank {local_rank} needs GPU number {local_rank}, but {visible} are visible; "
            "lower --nproc-per-node, correct CUDA_VISIBLE_DEVICES, or use --training.device cpu"
        )
    return Platform("cuda", "nccl", torch.device("cuda", local_rank))


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step; other C libraries are left as they are.

    Otherwise it returns every large tensor to the kernel and gets zeroed pages again; logits alone are hundreds of
    megabytes a step.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)


def peak_flops(device_name: str) -> float | None:
    """Return the peak dense 16-bit FLOP/s of a GPU by its driver's name; None if unknown, or a part of one (MIG)."""
    words = set(re.split(r"[^a-z0-9]+", device_name.lower()))
    if "mig" in words:
        return None
    for name, teraflops in PEAK_TERAFLOPS.items():
        if words.issuperset(name.lower().split()):
            return teraflops * 1e12
    return None
