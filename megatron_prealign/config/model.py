"""The model section: architecture, sizes, numerics of the network."""

from dataclasses import dataclass
from typing import Literal

from megatron_prealign.config.architectures import ARCHITECTURE_TRAITS, ArchitectureName, ArchitectureTraits


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Decoder-only transformer; names are Megatron's."""

    preset: str | None = None
    """Named set of sizes: tiny, 150m, 400m, 1b, llama-150m, llama-400m, llama-1b or llama-8b; fields given beside it
    win."""

    architecture: ArchitectureName = "llama"
    """llama: RMSNorm, SwiGLU, no biases; qwen2: llama with biases on queries, keys and values; qwen3: llama with norms
    on queries and keys; gpt_neox: LayerNorm, GELU (tanh), biases, sequential residual."""

    num_layers: int = 4
    """Transformer layers."""

    hidden_size: int = 128
    """Width of the hidden states."""

    num_attention_heads: int = 4
    """Attention heads; hidden_size must be divisible by it, unless kv_channels is given."""

    num_query_groups: int | None = None
    """Key/value heads (grouped-query attention); none = num_attention_heads."""

    kv_channels: int | None = None
    """Size of one attention head; none = hidden_size / num_attention_heads."""

    ffn_hidden_size: int = 512
    """Width inside the MLP."""

    max_position_embeddings: int = 1024
    """Longest sequence the model is declared for, in tokens."""

    vocab_size: int | None = None
    """Vocabulary size in tokens; none = the tokenizer's."""

    make_vocab_size_divisible_by: int = 128
    """Embedding rows are padded to a multiple of this; the same for every parallel layout."""

    untie_embeddings_and_output_weights: bool = False
    """Give the output layer its own weight instead of the input embedding's."""

    rotary_base: float = 10000.0
    """Base of the rotary position embedding (rope theta)."""

    rotary_percent: float = 1.0
    """Share of each head's dimensions that is rotated, in (0, 1]."""

    norm_epsilon: float = 1e-5
    """Epsilon inside the norms."""

    init_method_std: float = 0.02
    """Standard deviation of initial weights; residual outputs use it over sqrt(2 * num_layers)."""

    hidden_dropout: float = 0.0
    """Dropout probability on embedding and residual branches, in [0, 1)."""

    attention_dropout: float = 0.0
    """Dropout probability on attention weights, in [0, 1)."""

    transformer_impl: Literal["auto", "transformer_engine", "local"] = "auto"
    """Layer implementation; auto = Transformer Engine where it is installed on cuda, else local."""

    @property
    def traits(self) -> ArchitectureTraits:
        """What the architecture is made of."""
        return ARCHITECTURE_TRAITS[self.architecture]

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        """Key/value heads, where num_query_groups is none too."""
        return self.num_query_groups or self.num_attention_heads

    @property
    def padded_vocab_size(self) -> int:
        """Embedding rows; vocab_size must be resolved.

        Raises:
            ValueError: vocab_size is none.
        """
        if self.vocab_size is None:
            raise ValueError("vocab_size is not resolved; take it from the tokenizer first")
        multiple = self.make_vocab_size_divisible_by
        return -(-self.vocab_size // multiple) * multiple
