"""Attach a loss to a tensor of the forward pass, so that its backward pass includes the loss.

The way megatron-core attaches the auxiliary losses of mixture-of-experts layers: the tensor passes
through unchanged, and whatever gradient arrives for it is joined by the gradient of the loss. It
works on every pipeline stage and under activation recomputation.
"""

from typing import Any

import torch
from megatron.core.utils import make_viewless_tensor
from torch import Tensor


class _AttachLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, loss: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return tensor

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (scale,) = ctx.saved_tensors
        return grad_outputs[0], scale, None


def attach_loss(tensor: Tensor, loss: Tensor, scale: Tensor) -> Tensor:
    """Return `tensor`, whose backward pass adds the gradient of scale * loss.

    Args:
        tensor: any shape, part of the graph.
        loss: scalar.
        scale: scalar of the loss's type, without gradient.
    """
    attached = _AttachLoss.apply(tensor, loss, scale)  # type: ignore[no-untyped-call]
    # A pipeline stage frees what it has sent and refuses views.
    viewless: Tensor = make_viewless_tensor(inp=attached, requires_grad=True, keep_graph=True)
    return viewless
