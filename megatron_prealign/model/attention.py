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
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.torch_version import TorchVersion

_HALF = (torch.bfloat16, torch.float16)


def segment_mask(segments: Tensor, queries: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
    """Return which positions are hidden from which: later ones, and those of another segment.

    Args:
        segments: int64 [B, S], the segment of each position.
        queries: int64 [Q], positions that see; None = all.
        keys: int64 [K], positions that are seen; None = all.

    Returns:
        bool [B, 1, Q, K], true where query position (second last) must not see key position (last).
    """
    everywhere = torch.arange(segments.shape[1], device=segments.device)
    queries, keys = (everywhere if positions is None else positions for positions in (queries, keys))
    future = keys > queries[:, None]
    return (future | (segments[:, queries, None] != segments[:, None, keys]))[:, None]


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


def segment_bounds(segments: Tensor) -> Tensor:
    """Return where segments [B, S] begin and the last one ends, counted through all rows: int32 [segments + 1].

    On a GPU it would wait for the device: call it on the host.
    """
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    end = torch.tensor([segments.numel()])
    return torch.cat([begins.flatten().nonzero().flatten(), end]).int()


class Segments(PackedSeqParams):  # type: ignore[misc]
    """Segments of a microbatch's rows that attention does not cross, for core attention.

    megatron-core hands `packed_seq_params` through to it, also where activations are recomputed. For all else in the
    model the rows stay whole ("sbhd"): rotary embeddings depend on distances alone.
    """

    def __init__(self, numbers: Tensor, bounds: Tensor) -> None:
        """Take the segments of whole rows.

        Args:
            numbers: int64 [B, S], the segment of each position.
            bounds: int32 [segments + 1], see `segment_bounds`.
        """
        size = numbers.shape[1]
        super().__init__(qkv_format="sbhd", max_seqlen_q=size, max_seqlen_kv=size)
        self._numbers = numbers
        self.bounds = bounds
        self._hidden: Tensor | None = None
        self._additive: Tensor | None = None

    def one_after_another(self) -> PackedSeqParams:
        """Return how Transformer Engine is told that the rows [B * S] are segments; none is longer than a row."""
        return PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=self.bounds,
            cu_seqlens_kv=self.bounds,
            max_seqlen_q=self.max_seqlen_q,
            max_seqlen_kv=self.max_seqlen_kv,
        )

    def hidden(self) -> Tensor:
        """Return which positions are hidden from which, made once for all layers: bool [B, 1, S, S]."""
        if self._hidden is None:
            self._hidden = segment_mask(self._numbers)
        return self._hidden

    def additive(self, dtype: torch.dtype, group: ProcessGroup | None) -> Tensor:
        """Return the additive mask of this context-parallel rank's queries, made once for all layers."""
        if self._additive is None:
            size, device = self._numbers.shape[1], self._numbers.device
            positions = (None, None) if group is None else _context_positions(size, group, device)
            self._additive = additive_mask(segment_mask(self._numbers, *positions), dtype)
        return self._additive


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
        packed_seq_params: Segments | None = None,
        **_: Any,
    ) -> Tensor:
        """Attend causally, by the mask, or within segments.

        Args:
            query: [S, B, N, D].
            key: [S, B, G, D].
            value: [S, B, G, D].
            attention_mask: [B, 1, S, S], added to the scores (see `additive_mask`); None = causal.
            attn_mask_type: ignored.
            packed_seq_params: of the whole rows.

        Returns:
            [S, B, N * D].
        """
        sequence, batch, heads, head_size = query.shape
        dropout = self.dropout if self.training else 0.0
        split = self.config.context_parallel_size > 1
        if packed_seq_params is not None and not split and _has_segment_kernel(query, dropout):
            return self._attend_within(packed_seq_params, query, key, value)
        if split:
            assert attention_mask is None, "words are not split over context-parallel ranks"
            assert self.context_group is not None
            key, value = (
                tensor_parallel.gather_from_sequence_parallel_region(x, group=self.context_group) for x in (key, value)
            )
        if packed_seq_params is not None:
            attention_mask = packed_seq_params.additive(query.dtype, self.context_group if split else None)
        elif split:
            attention_mask = _context_mask(len(key), self.context_group, query.dtype, query.device)
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        if dropout > 0.0 and not self.config.sequence_parallel:
            # Tensor-parallel ranks have different heads, so their dropout must differ.
            with tensor_parallel.get_cuda_rng_tracker().fork():
                output = self._attend(query, key, value, attention_mask, dropout)
        else:
            output = self._attend(query, key, value, attention_mask, dropout)
        return output.permute(2, 0, 1, 3).reshape(sequence, batch, heads * head_size)

    def _attend_within(self, segments: Segments, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend causally within segments by flash attention, which stores neither scores nor a mask."""
        from torch.nn.attention.varlen import varlen_attn

        sequence, batch = query.shape[:2]
        output = varlen_attn(
            _join_rows(query),
            _join_rows(key),
            _join_rows(value),
            cu_seq_q=segments.bounds,
            cu_seq_k=segments.bounds,
            max_q=sequence,
            max_k=sequence,
            scale=self.softmax_scale,
            window_size=(-1, 0),
            enable_gqa=query.shape[2] != key.shape[2],
        )
        assert isinstance(output, Tensor), "without auxiliary outputs"
        return _part_rows(output, batch)

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


def _has_segment_kernel(query: Tensor, dropout: float) -> bool:
    """Return whether torch's flash attention for sequences of different lengths takes these numbers."""
    return (
        query.is_cuda
        and torch.version.hip is None
        and TorchVersion(torch.__version__) >= "2.13"  # earlier ones lack query groups
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and query.dtype in _HALF
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and dropout == 0.0
    )


def _join_rows(rows: Tensor) -> Tensor:
    """Return [S, B, N, D] as [B * S, N, D], one row after the other."""
    return rows.transpose(0, 1).flatten(0, 1)


def _part_rows(joined: Tensor, batch: int) -> Tensor:
    """Return [B * S, ...] as [S, B, H]: undo `_join_rows`, and join the heads."""
    return joined.reshape(batch, len(joined) // batch, -1).transpose(0, 1).contiguous()


def _context_positions(size: int, group: ProcessGroup, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the positions [S] of this context-parallel rank, and those [size] of all ranks in turn.

    Rank r holds pieces r and 2C - 1 - r of the sequence.
    """
    pieces = torch.arange(size, device=device).chunk(2 * group.size())
    held = [torch.cat([pieces[rank], pieces[-1 - rank]]) for rank in range(group.size())]
    return held[group.rank()], torch.cat(held)


@functools.lru_cache(maxsize=1)
def _context_mask(size: int, group: ProcessGroup, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the causal mask [1, 1, S, size] of this context-parallel rank's S queries; all layers share it."""
    one_segment = torch.zeros(1, size, dtype=torch.int64, device=device)
    return additive_mask(segment_mask(one_segment, *_context_positions(size, group, device)), dtype)


def transformer_engine_attention() -> type:
    """Return Transformer Engine's core attention, changed to apply a mask or segments if they are given.

    megatron-core's layers ask for causal attention in every call, so Transformer Engine would ignore a mask.
    """
    from megatron.core.extensions.transformer_engine import TEDotProductAttention

    class MaskedTEDotProductAttention(TEDotProductAttention):  # type: ignore[misc]
        def __init__(self, config: TransformerConfig, **options: Any) -> None:
            super().__init__(config=config, **options)
            # Split over ranks, Transformer Engine takes only segments whose lengths the pieces divide.
            self.split_attention = None
            if config.context_parallel_size > 1:
                self.split_attention = SDPAttention(config, **options)

        def forward(
            self,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None,
            attn_mask_type: AttnMaskType,
            packed_seq_params: Segments | None = None,
            **options: Any,
        ) -> Tensor:
            output: Tensor
            if packed_seq_params is not None and self.split_attention is not None:
                output = self.split_attention(query, key, value, packed_seq_params=packed_seq_params)
                return output
            if packed_seq_params is not None and query.dtype in _HALF:
                rows = (_join_rows(x) for x in (query, key, value))
                packed = packed_seq_params.one_after_another()
                output = super().forward(*rows, None, attn_mask_type, packed_seq_params=packed, **options)
                return _part_rows(output, query.shape[1])
            if packed_seq_params is not None:
                # Its kernels for segments take 16-bit numbers alone.
                attention_mask = packed_seq_params.hidden()
            if attention_mask is not None:
                attn_mask_type = AttnMaskType.arbitrary
            output = super().forward(query, key, value, attention_mask, attn_mask_type, **options)
            return output

    return MaskedTEDotProductAttention
