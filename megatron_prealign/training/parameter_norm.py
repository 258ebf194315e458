"""The norm of all parameters, whatever the layout."""

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.layers import param_is_not_tensor_parallel_duplicate
from megatron.core.transformer.module import param_is_not_shared


@torch.no_grad()
def parameter_norm(chunks: list[torch.nn.Module]) -> float:
    """Return the Euclidean norm of the whole model's parameters, each counted once; collective, equal on all ranks."""
    own: list[torch.Tensor] = [
        parameter
        for chunk in chunks
        for parameter in chunk.parameters()
        if param_is_not_shared(parameter) and param_is_not_tensor_parallel_duplicate(parameter)
    ]
    total = torch.zeros((), dtype=torch.float64, device=next(chunks[0].parameters()).device)
    if own:
        # Of 16-bit parameters too, whose own norms would have three digits.
        total += torch.stack(torch._foreach_norm(own, dtype=torch.float32)).double().square().sum()
    torch.distributed.all_reduce(total, group=parallel_state.get_model_parallel_group())
    return float(total.sqrt())
