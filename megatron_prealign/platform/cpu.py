"""Redirection of megatron-core's CUDA calls to the CPU; never active where cuda is used.

megatron-core 0.16 to 0.19 has no CPU path: it names the device "cuda" in factory calls, asks torch.cuda for
the current device and its random state, and compares type names. Three small pieces redirect that:

* `_CudaToCpu`, a TorchFunctionMode: factory calls, `Tensor.cuda()`, `Tensor.type()`.
* `_TORCH_CUDA`, a table of torch.cuda functions that are plain Python, so that no mode sees them.
* `CpuRNGStatesTracker`, the tracker of random states over the CPU generator.

All of it can go when megatron-core asks torch.accelerator for the device instead of torch.cuda.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CPU = torch.device("cpu")
_installed: "contextlib.ExitStack | None" = None


def _is_cuda(device: object) -> bool:
    if isinstance(device, int) and not isinstance(device, bool):
        return True
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


class _CudaToCpu(TorchFunctionMode):
    """Redirects calls for cuda to the CPU."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Factory calls with device="cuda": optimizers, schedules, gradient buffers, receive buffers.
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs = {**kwargs, "device": _CPU}
        # Context-parallel position embeddings go through pinned memory, which only a GPU's driver can give.
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        # Shared embedding weights and checkpointing move tensors with .cuda().
        if func is torch.Tensor.cuda:
            return args[0]
        result = func(*args, **kwargs)
        # Gradient clipping and the optimizers accept only type names such as 'torch.cuda.FloatTensor'.
        if func is torch.Tensor.type and isinstance(result, str):
            return result.replace("torch.", "torch.cuda.", 1)
        return result


def _get_rng_state(device: object = None, **_: object) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(new_state: torch.Tensor, *_: object, **__: object) -> None:
    torch.set_rng_state(new_state)


# Each is called on megatron-core's path through a training step or a checkpoint.
_TORCH_CUDA: dict[str, Callable[..., Any]] = {
    "current_device": lambda: _CPU,  # every buffer allocation
    "current_stream": lambda *_: None,  # from 0.18 on, before gradients are reduced
    "synchronize": lambda *_: None,  # point-to-point communication, checkpoint writer
    "empty_cache": lambda: None,  # optimizer offload hooks
    "is_current_stream_capturing": lambda: False,  # layers ask before each forward
    "manual_seed": lambda seed: torch.manual_seed(seed),  # model_parallel_cuda_manual_seed
    "get_rng_state": _get_rng_state,  # tracker of random states
    "set_rng_state": _set_rng_state,
}


def _tracker_class() -> type:
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    class CpuRNGStatesTracker(CudaRNGStatesTracker):  # type: ignore[misc]
        """Named random states over the CPU generator.

        The original warns whenever the CPU state changed inside a fork; here that is its purpose.
        """

        _current_state_name: str

        @contextlib.contextmanager
        def fork(self, name: str = "model-parallel-rng") -> Iterator[None]:
            """Draw from the state `name` inside the context; nested forks of one name continue it."""
            outer_name, outer_state = self._current_state_name, torch.get_rng_state()
            if outer_name != "default-rng":
                self.states_[outer_name] = outer_state
            torch.set_rng_state(self.states_[name])
            self._current_state_name = name
            try:
                yield
            finally:
                self.states_[name] = torch.get_rng_state()
                torch.set_rng_state(self.states_[outer_name] if outer_name != "default-rng" else outer_state)
                self._current_state_name = outer_name

    return CpuRNGStatesTracker


def _replace(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    original = getattr(owner, name)
    setattr(owner, name, value)
    stack.callback(setattr, owner, name, original)


def install() -> None:
    """Redirect cuda to the CPU in this process until `uninstall`; a second call does nothing."""
    global _installed
    if _installed is not None:
        return
    stack = contextlib.ExitStack()
    for name, function in _TORCH_CUDA.items():
        _replace(stack, torch.cuda, name, function)
    stack.enter_context(_CudaToCpu())

    from megatron.core.tensor_parallel import random

    # Bound by name at import inside megatron-core, so torch.cuda's table above does not reach them.
    _replace(stack, random, "_get_cuda_rng_state", _get_rng_state)
    _replace(stack, random, "_set_cuda_rng_state", _set_rng_state)
    _replace(stack, random, "_CUDA_RNG_STATE_TRACKER", _tracker_class()())
    _replace(stack, random, "_CUDA_RNG_STATE_TRACKER_INITIALIZED", True)
    _installed = stack


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Run the kernel that torch chooses on Hopper: flash attention without a mask, memory-efficient with one."""
    if attn_mask is None and query.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(  # type: ignore[no-any-return]
            query, key, value, dropout_p, is_causal, scale=scale
        )[0]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(  # type: ignore[no-any-return]
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        reciprocals = hidden.new_empty((*hidden.shape[:-1], 1), dtype=torch.float32)
        ctx.save_for_backward(hidden, weight, reciprocals)
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weight, _ = ctx.saved_tensors
        return torch.empty_like(hidden), torch.empty_like(weight)


def _normalise(hidden: Tensor, _: Any, weight: Tensor, __: float) -> Tensor:
    """Keep for the backward pass what torch's fused kernel does, which only its CUDA build has: no fp32 copies."""
    return _FusedNorm.apply(hidden, weight)  # type: ignore[no-any-return, no-untyped-call]


def _apply(module: torch.nn.Module, function: Any, recurse: bool = True) -> torch.nn.Module:
    """Convert buffers alone: torch can't convert fake parameters, and these have their type and device already."""
    for part in module.modules():
        assert all(function(parameter).dtype == parameter.dtype for parameter in part.parameters(recurse=False))
        part._buffers.update({name: function(buffer) for name, buffer in part._buffers.items() if buffer is not None})
    return module


@contextlib.contextmanager
def pretending_cuda(synchronize: Callable[[], None]) -> Iterator[None]:
    """Answer torch.cuda's calls and choose kernels as for one GPU without streams, whose tensors are fake.

    Random states are the CPU's: nothing draws from them. Waits for the device call `synchronize` instead.
    """
    from megatron.core.tensor_parallel import random

    answers: dict[str, Callable[..., Any]] = {
        "_lazy_init": lambda: None,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: "NVIDIA H200",
        "max_memory_allocated": lambda *_: 0,
        "set_device": lambda _: None,
        "synchronize": lambda *_: synchronize(),
    }
    with contextlib.ExitStack() as stack:
        for name, function in {**_TORCH_CUDA, **answers}.items():
            _replace(stack, torch.cuda, name, function)
        _replace(stack, random, "_get_cuda_rng_state", _get_rng_state)
        _replace(stack, random, "_set_cuda_rng_state", _set_rng_state)
        _replace(stack, random, "_CUDA_RNG_STATE_TRACKER", _tracker_class()())
        _replace(stack, random, "_CUDA_RNG_STATE_TRACKER_INITIALIZED", True)
        _replace(stack, torch.nn.Module, "_apply", _apply)
        _replace(stack, torch.nn.functional, "rms_norm", _normalise)
        _replace(stack, torch.nn.functional, "scaled_dot_product_attention", _attend)
        yield


def uninstall() -> None:
    """Undo `install`."""
    global _installed
    if _installed is not None:
        _installed.close()
        _installed = None
