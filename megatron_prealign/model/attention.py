"""Core attention: causal over whole sequences, or within the segments of packed rows.

Without Transformer Engine it is PyTorch's scaled_dot_product_attention, which runs flash or fused kernels on cuda and
cpu; megatron-core's own unfused attention stores all S x S scores.

Shapes: S sequence, B batch, N heads and G query groups of this tensor-parallel rank, D head size.
"""

import functools
import math
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.distributed import ProcessGroup


def segment_mask(segments: Tensor) -> Tensor:
    """Return which positions are hidden from which: later ones, and those of another segment.

    Args:
        segments: int64 [B, S], the segment of each position.

    Returns:
        bool [B, 1, S, S], true where query position (second last) must not see key position (last).
    """
    size = segments.shape[1]
    future = torch.ones(size, size, dtype=torch.bool, device=segments.device).triu(1)
    return (future | (segments[:, :, None] != segments[:, None, :]))[:, None]


def additive_mask(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to be added to attention scores: zero, and minus infinity where `hidden` is true.

    PyTorch makes one of each boolean mask that it is given and keeps it for the backward pass: S x S numbers a layer.
    """
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -math.inf)


def number_documents(tokens: Tensor, end_of_document: int) -> Tensor:
    """Return the number of each position's document in its row, int64 [B, S] as `tokens`.

    A document ends with its end-of-document token.
    """
    ends = (tokens == end_of_document).long()
    return ends.cumsum(1) - ends


class SDPAttention(MegatronModule):  # type: ignore[misc]
    """Causal self-attention; no key/value cache."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        pg_collection: Any = None,
        **_: Any,
    ) -> None:
        """Take the arguments of megatron-core's core attention; `pg_collection` has its process groups."""
        super().__init__(config=config)
        self.softmax_scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.context_group = None if pg_collection is None else pg_collection.cp
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
        """Attend causally, or by the mask.

        Args:
            query: [S, B, N, D].
            key: [S, B, G, D].
            value: [S, B, G, D].
            attention_mask: [B, 1, S, S], added to the scores (see `additive_mask`); None = causal.
            attn_mask_type: ignored.

        Returns:
            [S, B, N * D].
        """
        sequence, batch, heads, head_size = query.shape
        if self.config.context_parallel_size > 1:
            assert attention_mask is None, "words are not split over context-parallel ranks"
            assert self.context_group is not None
            key, value = (
                tensor_parallel.gather_from_sequence_parallel_region(x, group=self.context_group) for x in (key, value)
            )
            attention_mask = _context_mask(len(key), self.context_group, query.dtype, query.device)
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        if dropout > 0.0 and not self.config.sequence_parallel:
            # Tensor-parallel ranks have different heads, so their dropout must differ.
            with tensor_parallel.get_cuda_rng_tracker().fork():
                output = self._attend(query, key, value, attention_mask, dropout)
        else:
            output = self._attend(query, key, value, attention_mask, dropout)
        return output.permute(2, 0, 1, 3).reshape(sequence, batch, heads * head_size)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float
    ) -> Tensor:
        queries_per_key = query.shape[1] // key.shape[1]
        if queries_per_key > 1 and attention_mask is not None and query.is_cuda:
            # For query groups with a mask, PyTorch's only kernel for many GPUs stores all S x S scores.
            key, value = (x.repeat_interleave(queries_per_key, dim=1) for x in (key, value))
        return torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=dropout,
            is_causal=attention_mask is None,
            scale=self.softmax_scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )


@functools.lru_cache(maxsize=1)
def _context_mask(size: int, group: ProcessGroup, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the additive mask [1, 1, S, size] of this rank's S queries over the keys of all context-parallel ranks.

    Rank r holds pieces r and 2C - 1 - r of the sequence. All layers share one mask.
    """
    pieces = torch.arange(size, device=device).chunk(2 * group.size())
    held = [torch.cat([pieces[rank], pieces[-1 - rank]]) for rank in range(group.size())]
    return additive_mask((torch.cat(held) > held[group.rank()][:, None])[None, None], dtype)


def transformer_engine_attention() -> type:
    """Return Transformer Engine's core attention, changed to apply a mask if one is given.

    megatron-core's layers ask for causal attention in every call, so Transformer Engine would ignore a mask.
    """
    from megatron.core.extensions.transformer_engine import TEDotProductAttention

    class MaskedTEDotProductAttention(TEDotProductAttention):  # type: ignore[misc]
        def forward(
            self,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None,
            attn_mask_type: AttnMaskType,
            **options: Any,
        ) -> Tensor:
            if attention_mask is not None:
                attn_mask_type = AttnMaskType.arbitrary
            output: Tensor = super().forward(query, key, value, attention_mask, attn_mask_type, **options)
            return output

    return MaskedTEDotProductAttention
