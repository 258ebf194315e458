"""Attention within segments of packed rows, by masks and by kernels for sequences of different lengths."""

import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from megatron_prealign.model import attention
from megatron_prealign.model.attention import SDPAttention, Segments, number_documents, segment_bounds, segment_mask

# Two rows of twelve tokens; 0 ends a document.
TOKENS = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]])
DOCUMENTS = [(0, 3), (3, 8), (8, 9), (9, 12), (12, 24)]


def make_segments() -> Segments:
    documents = number_documents(TOKENS, 0)
    return Segments(documents, segment_bounds(documents))


def make_attention(kind: type = SDPAttention, **settings: Any) -> Any:
    sizes = {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "num_query_groups": 2}
    config = TransformerConfig(**sizes, attention_dropout=0.0, **settings)
    return kind(config=config, layer_number=1, attn_mask_type=AttnMaskType.causal, attention_type="self")


def make_inputs() -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(12, 2, heads, 8) for heads in (4, 2, 2)]
    return [torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for shape in shapes]


def attend_alone(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend in each document by itself: [S, B, N, D] to [S, B, N * D]."""
    joined = [x.transpose(0, 1).reshape(24, -1, 8).transpose(0, 1) for x in (query, key, value)]
    parts = [
        scaled_dot_product_attention(*(x[None, :, start:stop] for x in joined), is_causal=True, enable_gqa=True)
        for start, stop in DOCUMENTS
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1).reshape(2, 12, 32).transpose(0, 1)


def attend_by_bounds(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor) -> Tensor:
    """Do what kernels for sequences of different lengths do: [T, N, D] to [T, N, D]."""
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
    parts = [
        scaled_dot_product_attention(
            *(x[:, :, start:stop] for x in (query, key, value)), is_causal=True, enable_gqa=True
        )
        for start, stop in zip(bounds.tolist(), bounds[1:].tolist(), strict=False)
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def assert_alone(found: Tensor, inputs: list[Tensor]) -> None:
    """Compare outputs and gradients with those of documents alone."""
    expected = attend_alone(*inputs)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    pairs = zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    )
    for gradient, alone in pairs:
        torch.testing.assert_close(gradient, alone, rtol=1e-9, atol=1e-12)


def test_bounds_run_through_all_rows() -> None:
    assert segment_bounds(number_documents(TOKENS, 0)).tolist() == [0, *(stop for _, stop in DOCUMENTS)]


def test_a_mask_of_some_positions_is_a_part_of_the_whole() -> None:
    documents = number_documents(TOKENS, 0)
    queries, keys = torch.tensor([0, 11, 5]), torch.arange(12).flip(0)
    found = segment_mask(documents, queries, keys)
    assert torch.equal(found, segment_mask(documents)[:, :, queries][..., keys])


def test_segments_by_mask_are_computed_as_if_alone() -> None:
    inputs = make_inputs()
    assert_alone(make_attention()(*inputs, packed_seq_params=make_segments()), inputs)


def test_segments_by_bounds_are_computed_as_if_alone() -> None:
    """With a stand-in for torch's kernel, which runs on GPUs alone."""
    calls: list[dict[str, Any]] = []

    def kernel(*tensors: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, **options: Any) -> Tensor:
        assert cu_seq_q is cu_seq_k
        calls.append(options)
        return attend_by_bounds(*tensors, cu_seq_q)

    inputs = make_inputs()
    with (
        patch("torch.nn.attention.varlen.varlen_attn", kernel),
        patch.object(attention, "_has_segment_kernel", lambda *_: True),
        patch.object(attention, "additive_mask", None),
    ):
        assert_alone(make_attention()(*inputs, packed_seq_params=make_segments()), inputs)
    expected = {"max_q": 12, "max_k": 12, "scale": 1 / math.sqrt(8), "window_size": (-1, 0), "enable_gqa": True}
    assert calls == [expected]


class Engine(torch.nn.Module):
    """Stands in for Transformer Engine's core attention: keeps what it is told."""

    def __init__(self, config: TransformerConfig, **_: Any) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        self.calls.append((attention_mask, attn_mask_type, packed_seq_params))
        if packed_seq_params is None:
            return query.flatten(2)
        assert packed_seq_params.cu_seqlens_q is packed_seq_params.cu_seqlens_kv
        return attend_by_bounds(query, key, value, packed_seq_params.cu_seqlens_q).flatten(1)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type:
    from megatron.core.extensions import transformer_engine

    monkeypatch.setattr(transformer_engine, "TEDotProductAttention", Engine)
    return attention.transformer_engine_attention()


def test_transformer_engine_is_told_where_segments_end(engine: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_HALF", (torch.float64,))  # which documents alone are compared in
    core, inputs = make_attention(engine), make_inputs()
    assert_alone(core(*inputs, None, AttnMaskType.causal, packed_seq_params=make_segments()), inputs)
    ((mask, kind, packed),) = core.calls
    assert (mask, kind, packed.qkv_format) == (None, AttnMaskType.causal, "thd")
    assert (packed.max_seqlen_q, packed.max_seqlen_kv) == (12, 12)


def test_transformer_engine_gets_a_mask_for_what_it_has_no_kernel_of(engine: type) -> None:
    core, segments = make_attention(engine), make_segments()
    for _ in range(2):
        core(*make_inputs(), None, AttnMaskType.causal, packed_seq_params=segments)
    (first, kind, packed), (second, _, _) = core.calls
    assert first is second
    assert (kind, packed) == (AttnMaskType.arbitrary, None)
    assert torch.equal(first, segment_mask(number_documents(TOKENS, 0)))


def test_rows_split_over_ranks_do_not_go_to_transformer_engine(engine: type) -> None:
    core, segments = make_attention(engine, context_parallel_size=2), make_segments()
    with patch.object(SDPAttention, "forward", lambda *_, packed_seq_params, **__: packed_seq_params):
        assert core(*make_inputs(), None, AttnMaskType.causal, packed_seq_params=segments) is segments
    assert core.calls == []
