"""The norm of gradients and parameters for clipping, guards and records: on the device, equal in every layout.

megatron-core's own norm adds fp32 numbers in fp32. On CPUs it is off by up to 2e-4 for the gradient of an embedding,
most of whose rows are zero. The error depends on how tensors are cut, so clipping would make the weights depend on the
layout. Without Transformer Engine and apex it also reads every tensor's norm back to the host.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_prealign.platform import Mesh
from megatron_prealign.platform.megatron.optimizer import use_gradient_norm

# How many squares a CPU adds in fp32: rows of this size, which torch does not split.
_ROW = 1024


@torch.no_grad()
def sum_of_squares(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the sum of the squares of all numbers: float64 scalar on the device, within 1e-6 of the exact one.

    It is NaN or infinite if any number is; nothing is read back to the host. On CPUs the norm of 1,024 numbers must be
    between 1e-19 and 1e19, beyond which fp32 has no squares.

    Args:
        tensors: contiguous, of any floating-point types, on `device`; may be empty.
        device: of the result.
    """
    if not tensors:
        return torch.zeros((), dtype=torch.float64, device=device)
    if device.type == "cuda":
        return torch.stack(torch._foreach_norm(list(tensors), dtype=torch.float64)).square().sum()
    return torch.stack([_sum_of_squares_on_cpu(tensor.reshape(-1)) for tensor in tensors]).sum()


def _sum_of_squares_on_cpu(numbers: Tensor) -> Tensor:
    whole_rows = numbers.numel() - numbers.numel() % _ROW
    rows = numbers[:whole_rows].view(-1, _ROW)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).double()
    return norms.square().sum() + numbers[whole_rows:].double().square().sum()


def _global_norm(
    device: torch.device,
    tensors: Tensor | Sequence[Tensor],
    norm_type: float = 2,
    grad_stats_parallel_group: torch.distributed.ProcessGroup | None = None,
) -> float:
    """Take the arguments of megatron-core's `get_grad_norm_fp32`, after the device."""
    assert norm_type == 2, norm_type
    total = sum_of_squares([tensors] if isinstance(tensors, Tensor) else tensors, device)
    torch.distributed.all_reduce(total, group=grad_stats_parallel_group)
    return math.sqrt(total.item())


def register(device: torch.device) -> None:
    """Make megatron-core's optimizers clip by this norm."""
    use_gradient_norm(functools.partial(_global_norm, device))


def parameter_norm(chunks: Sequence[torch.nn.Module]) -> float:
    """Return the Euclidean norm of the whole model's parameters, each counted once; collective, equal on all ranks."""
    mesh = Mesh.current()
    own = [parameter for chunk in chunks for parameter in chunk.parameters() if mesh.counts(parameter)]
    device = next(chunks[0].parameters()).device
    return _global_norm(device, own, grad_stats_parallel_group=mesh.model.group)
