"""What differs between cuda+nccl and cpu+gloo, as one value."""

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import psutil
import torch

from megatron_prealign.errors import ConfigError
from megatron_prealign.platform import cpu
from megatron_prealign.platform.matrix_products import multiply_fast
from megatron_prealign.platform.peak_flops import peak_flops

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
        """Wait until queued device work is done; before reading a clock."""
        if self.name == "cuda":
            torch.cuda.synchronize(self.device)

    def memory_bytes(self) -> int:
        """Return the peak of allocated GPU memory, or the resident memory of the process on cpu, in bytes."""
        if self.name == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return int(psutil.Process().memory_info().rss)

    def peak_flops(self) -> float | None:
        """Return the dense 16-bit FLOP/s of the GPU at its peak; none on cpu, or where it is not known."""
        return peak_flops(torch.cuda.get_device_name(self.device)) if self.name == "cuda" else None

    def activate(self) -> None:
        """Make this the device that megatron-core uses in this process."""
        if self.name == "cuda":
            # Megatron's overlap of communication with computation relies on the order of one queue.
            os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
            torch.cuda.set_device(self.device)
        else:
            _keep_freed_memory()
            multiply_fast()
            cpu.install()


def select_platform(device: Literal["auto", "cuda", "cpu"], local_rank: int = 0) -> Platform:
    """Return the platform that `device` names; auto is cuda where a GPU is visible.

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
    """Let the C library keep freed memory for the next step; nothing happens where it is not glibc.

    It would give back every large tensor, and get its pages again from the kernel, zeroed one by one: logits alone are
    hundreds of megabytes a step.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)
