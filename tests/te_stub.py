"""Transformer Engine's own Python classes without a GPU: its C extension is replaced by a stub.

Constructors, names, checkpoints and the logic of the optimizer run as they are in the wheel; kernels do not, except
AdamW's, which is written out. Call `install` before anything imports megatron-core, in a process of its own: everything
in that process believes that Transformer Engine is installed.
"""

import enum
import os
import sys
import types
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

VERSION = "2.20.2"
"""The release whose Python code the stub was written for."""

_LEFT_OUT = (
    "transformer_engine.pytorch.onnx_extensions",
    "transformer_engine.pytorch.triton",
    "transformer_engine.pytorch.triton.cross_entropy",
    "transformer_engine.pytorch.triton.grouped_dbias_dscales",
    "transformer_engine.pytorch.triton.pad",
    "transformer_engine.pytorch.triton.permutation",
)
"""Parts that need packages of their own, which nothing here does."""


# The numbers of the types, which the Python code reads when it is imported.
_DTYPES = {
    "kByte": 0,
    "kInt32": 2,
    "kFloat32": 4,
    "kFloat16": 5,
    "kBFloat16": 6,
    "kFloat8E4M3": 7,
    "kFloat8E5M2": 8,
    "kFloat4E2M1": 10,
}


class _Enumeration(type):
    """A class of the extension whose members are made as they are asked for, each another number."""

    def __getattr__(cls, name: str) -> int:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(cls, name, len(vars(cls)))
        return int(vars(cls)[name])

    @property
    def __members__(cls) -> dict[str, int]:
        """What was asked for so far: the Python code compares its own list with it, when it is imported."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, int)}


class _Extension(types.ModuleType):
    """The extension: classes by capital letters, functions that do nothing else."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        is_class = name[0].isupper() or name.startswith("NVTE")
        value = _Enumeration(name, (), {"__init__": lambda self, *_, **__: None}) if is_class else MagicMock(name=name)
        setattr(self, name, value)
        return value


def _multi_tensor_adam(
    _chunk_size: int,
    _overflow: Tensor,
    lists: list[list[Tensor]],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    mode: int,
    bias_correction: int,
    weight_decay: float,
) -> None:
    """Do what the kernel does: AdamW with decoupled weight decay."""
    assert mode == 1
    for gradient, parameter, moment, square in zip(*lists, strict=True):
        moment.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        first, second = (1 - beta1**step, 1 - beta2**step) if bias_correction else (1.0, 1.0)
        update = (moment / first) / ((square / second).sqrt() + eps) + weight_decay * parameter
        parameter.sub_(lr * update)


def install() -> None:
    """Import Transformer Engine over the stub; it must be on the path."""
    # Otherwise its import loads the core library, which is 264 MiB and needs CUDA's.
    os.environ["NVTE_PROJECT_BUILDING"] = "1"
    os.environ.pop("NVTE_RELEASE_BUILD", None)
    extension = _Extension("transformer_engine_torch")
    known = {
        "DType": enum.IntEnum("DType", _DTYPES),
        "get_cudnn_version": lambda: 91200,
        "multi_tensor_adam": _multi_tensor_adam,
    }
    vars(extension).update(known)
    # It asks these of the GPU it is to run on: an H100's.
    device = types.SimpleNamespace(major=9, minor=0, multi_processor_count=132, total_memory=80 << 30)
    vars(torch.cuda).update(
        get_device_properties=lambda *_: device, get_device_capability=lambda *_: (9, 0), device_count=lambda: 1
    )
    sys.modules.update({name: MagicMock(name=name) for name in _LEFT_OUT})
    # Its first import would look for the extension's file; that of its PyTorch half waits until nothing looks any more.
    halves = ("transformer_engine.pytorch", "transformer_engine.jax")
    sys.modules.update({name: types.ModuleType(name) for name in halves})
    from transformer_engine import common

    common.load_framework_extension = lambda _: None
    sys.modules["transformer_engine_torch"] = extension
    del sys.modules["transformer_engine.pytorch"]
    import transformer_engine.pytorch  # noqa: F401
