"""Core attention around PyTorch's scaled_dot_product_attention, for layers without Transformer Engine.

megatron-core's own unfused attention materialises the S x S scores; this runs flash or fused
kernels where PyTorch has them, on cuda as on cpu.

Shapes: S sequence, B batch, N heads and G query groups of this tensor-parallel rank, D head size.
"""

import math
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor


class SDPAttention(MegatronModule):  # type: ignore[misc]
    """Causal self-attention over whole sequences; no packing, no key/value cache."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        """Take the arguments of megatron-core's core attention; those not named are its process groups."""
        super().__init__(config=config)
        self.softmax_scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: AttnMaskType | None = None,
        **_: Any,
    ) -> Tensor:
        """Attend causally.

        Args:
            query: [S, B, N, D].
            key: [S, B, G, D].
            value: [S, B, G, D].
            attention_mask: ignored; the mask is causal by construction.
            attn_mask_type: causal, or none to take the layer's.

        Returns:
            [S, B, N * D].
        """
        sequence, batch, heads, head_size = query.shape
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        if dropout > 0.0 and not self.config.sequence_parallel:
            # Heads differ between tensor-parallel ranks, so their dropout must differ too.
            with tensor_parallel.get_cuda_rng_tracker().fork():
                output = self._attend(query, key, value, dropout)
        else:
            output = self._attend(query, key, value, dropout)
        return output.permute(2, 0, 1, 3).reshape(sequence, batch, heads * head_size)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=dropout,
            is_causal=True,
            scale=self.softmax_scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
