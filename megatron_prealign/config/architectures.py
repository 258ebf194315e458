"""What sets the architectures apart: one entry each, read wherever the network is built, counted or converted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ArchitectureName = Literal["llama", "qwen2", "qwen3", "gpt_neox"]


@dataclass(frozen=True, kw_only=True)
class ArchitectureTraits:
    """Choices that an architecture makes once for all its sizes."""

    title: str
    """What it is called in text."""

    normalization: Literal["RMSNorm", "LayerNorm"]
    """RMSNorm has a weight, LayerNorm a bias beside it."""

    has_gated_mlp: bool
    """SwiGLU, or else GELU in its tanh form."""

    has_linear_bias: bool
    """Every linear layer of a transformer layer has a bias."""

    has_qkv_bias: bool
    """The query, key and value projections have a bias."""

    has_qk_norm: bool
    """Queries and keys are normalised head by head."""

    shares_keys: bool
    """Query heads may share keys and values (grouped-query attention)."""

    sets_head_size: bool
    """The size of a head need not be hidden_size / num_attention_heads."""

    rotates_part: bool
    """Rotary position embeddings may turn a part of each head only."""


ARCHITECTURE_TRAITS: Mapping[str, ArchitectureTraits] = {
    "llama": ArchitectureTraits(
        title="Llama",
        normalization="RMSNorm",
        has_gated_mlp=True,
        has_linear_bias=False,
        has_qkv_bias=False,
        has_qk_norm=False,
        shares_keys=True,
        sets_head_size=True,
        rotates_part=False,
    ),
    "qwen2": ArchitectureTraits(
        title="Qwen2",
        normalization="RMSNorm",
        has_gated_mlp=True,
        has_linear_bias=False,
        has_qkv_bias=True,
        has_qk_norm=False,
        shares_keys=True,
        sets_head_size=False,
        rotates_part=False,
    ),
    "qwen3": ArchitectureTraits(
        title="Qwen3",
        normalization="RMSNorm",
        has_gated_mlp=True,
        has_linear_bias=False,
        has_qkv_bias=False,
        has_qk_norm=True,
        shares_keys=True,
        sets_head_size=True,
        rotates_part=False,
    ),
    "gpt_neox": ArchitectureTraits(
        title="GPT-NeoX",
        normalization="LayerNorm",
        has_gated_mlp=False,
        has_linear_bias=True,
        has_qkv_bias=True,
        has_qk_norm=False,
        shares_keys=False,
        sets_head_size=False,
        rotates_part=True,
    ),
}
"""By the names that model.architecture takes; those of Hugging Face's `model_type`."""
