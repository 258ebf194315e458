"""The model section: architecture, sizes, numerics of the network; and the traits of each architecture."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from megatron_prealign.config.constraints import ABOVE_0, AT_LEAST_1, BELOW_1, Range

ArchitectureName = Literal["llama", "mistral", "qwen2", "qwen3", "smollm3", "gpt_neox"]


@dataclass(frozen=True, kw_only=True)
class ArchitectureTraits:
    """Properties of an architecture, the same for all its sizes."""

    title: str
    """Its name in text."""

    normalization: Literal["RMSNorm", "LayerNorm"]
    """RMSNorm has a weight, LayerNorm a weight and a bias."""

    has_gated_mlp: bool
    """SwiGLU if true, else GELU in its tanh form."""

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
    """Rotary position embeddings may rotate only a part of each head."""

    scales_rotary: bool
    """Rotary position embeddings may be stretched for longer sequences."""

    skips_rotary: bool
    """Some layers may have no position embeddings."""


_LLAMA = ArchitectureTraits(
    title="Llama",
    normalization="RMSNorm",
    has_gated_mlp=True,
    has_linear_bias=False,
    has_qkv_bias=False,
    has_qk_norm=False,
    shares_keys=True,
    sets_head_size=True,
    rotates_part=False,
    scales_rotary=True,
    skips_rotary=False,
)
ARCHITECTURE_TRAITS: Mapping[str, ArchitectureTraits] = {
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, title="Mistral"),
    "qwen2": replace(_LLAMA, title="Qwen2", has_qkv_bias=True, sets_head_size=False),
    "qwen3": replace(_LLAMA, title="Qwen3", has_qk_norm=True),
    "smollm3": replace(_LLAMA, title="SmolLM3", skips_rotary=True),
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
        scales_rotary=False,
        skips_rotary=False,
    ),
}
"""By the values of model.architecture, which equal Hugging Face's `model_type`."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Decoder-only transformer; names are Megatron's."""

    preset: str | None = None
    """Named set of sizes: tiny, 150m, 400m, 1b, llama-150m, llama-400m, llama-1b or llama-8b; fields that you set
    override it."""

    architecture: ArchitectureName = "llama"
    """llama: RMSNorm, SwiGLU, no biases; mistral: the same under another name; qwen2: llama with biases on queries,
    keys and values; qwen3: llama with norms on queries and keys; smollm3: llama with layers without rotary embeddings;
    gpt_neox: LayerNorm, GELU (tanh), biases, sequential residual."""

    num_layers: Annotated[int, AT_LEAST_1] = 4
    """Transformer layers."""

    hidden_size: Annotated[int, AT_LEAST_1] = 128
    """Width of the hidden states."""

    num_attention_heads: Annotated[int, AT_LEAST_1] = 4
    """Attention heads; hidden_size must be divisible by it, unless kv_channels is given."""

    num_query_groups: Annotated[int, AT_LEAST_1] | None = None
    """Key/value heads (grouped-query attention); none = num_attention_heads."""

    kv_channels: Annotated[int, AT_LEAST_1] | None = None
    """Size of one attention head; none = hidden_size / num_attention_heads."""

    ffn_hidden_size: Annotated[int, AT_LEAST_1] = 512
    """Width inside the MLP."""

    max_position_embeddings: Annotated[int, AT_LEAST_1] = 1024
    """Longest sequence of the model, in tokens."""

    vocab_size: Annotated[int, AT_LEAST_1] | None = None
    """Vocabulary size in tokens; none = the tokenizer's."""

    make_vocab_size_divisible_by: Annotated[int, Range(1, 1 << 20)] = 128
    """Embedding rows are padded to a multiple of this, independent of the parallel layout."""

    untie_embeddings_and_output_weights: bool = False
    """Give the output layer its own weight instead of the input embedding's."""

    rotary_base: Annotated[float, ABOVE_0] = 10000.0
    """Base of the rotary position embedding (rope theta)."""

    rotary_percent: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Share of each head's dimensions that is rotated, in (0, 1]."""

    rope_scaling: Literal["none", "llama3", "yarn"] = "none"
    """Stretching of rotary embeddings for longer sequences than a model was first trained on: llama3 as in Llama 3.1
    and later, yarn as in Qwen2.5."""

    rope_scaling_factor: Annotated[float, AT_LEAST_1] = 8.0
    """How many times longer; only with rope_scaling."""

    original_max_position_embeddings: Annotated[int, AT_LEAST_1] = 8192
    """Length before stretching, in tokens; only with rope_scaling, and always 8192 for llama3."""

    no_rope_freq: Annotated[int, AT_LEAST_1] | None = None
    """Every n-th layer has no rotary embeddings; none = all have them."""

    norm_epsilon: Annotated[float, ABOVE_0] = 1e-5
    """Epsilon inside the norms."""

    init_method_std: Annotated[float, ABOVE_0] = 0.02
    """Standard deviation of initial weights; residual outputs use it divided by sqrt(2 * num_layers)."""

    hidden_dropout: Annotated[float, BELOW_1] = 0.0
    """Dropout probability on embedding and residual branches, in [0, 1)."""

    attention_dropout: Annotated[float, BELOW_1] = 0.0
    """Dropout probability on attention weights, in [0, 1)."""

    transformer_impl: Literal["auto", "transformer_engine", "local"] = "auto"
    """Layer implementation; auto = Transformer Engine if installed, on cuda; else local."""

    @property
    def traits(self) -> ArchitectureTraits:
        """Traits of the architecture."""
        return ARCHITECTURE_TRAITS[self.architecture]

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        """Number of key/value heads, also if num_query_groups is None."""
        return self.num_query_groups or self.num_attention_heads

    @property
    def padded_vocab_size(self) -> int:
        """Embedding rows; vocab_size must be resolved.

        Raises:
            ValueError: vocab_size is None.
        """
        if self.vocab_size is None:
            raise ValueError("vocab_size is not resolved; take it from the tokenizer first")
        multiple = self.make_vocab_size_divisible_by
        return -(-self.vocab_size // multiple) * multiple
