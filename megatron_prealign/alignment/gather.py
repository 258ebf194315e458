"""One tensor of all data-parallel ranks."""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup


@torch.no_grad()
def gather_ranks(tensor: Tensor, group: ProcessGroup) -> Tensor:
    """Join [n, ...] of each rank to [n * ranks, ...], in rank order, without gradient."""
    if group.size() == 1:
        return tensor
    joined = tensor.new_empty((tensor.shape[0] * group.size(), *tensor.shape[1:]))
    torch.distributed.all_gather_into_tensor(joined, tensor.contiguous(), group=group)
    return joined
