"""Norms that work without Transformer Engine and apex, also under sequence parallelism.

megatron-core's wrapper around torch norms refuses sequence parallelism; what is missing there is the
mark on the parameters that makes `finalize_model_grads` sum their gradients over tensor-parallel ranks.
"""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional


class Norm(torch.nn.Module):
    """RMSNorm or LayerNorm over the last dimension, as `config.normalization` says."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        """Take the arguments of megatron-core's norms."""
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.bias: torch.nn.Parameter | None = None
        if config.normalization == "LayerNorm":
            self.bias = torch.nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype))
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise [..., H] over H."""
        if self.bias is None:
            return functional.rms_norm(hidden, self.weight.shape, self.weight, self.eps)
        return functional.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)
