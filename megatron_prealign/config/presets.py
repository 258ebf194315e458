"""Named model sizes: the paper's, and modern Llama-style ones."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Values of the model section under one name."""

    description: str
    """Architecture, shape and rounded parameter count."""

    vocab_size: int
    """Vocabulary the stated counts assume, in tokens; a run uses its tokenizer's."""

    num_parameters: int
    """All parameters at that vocabulary, embeddings included."""

    values: Mapping[str, object]
    """Fields of ModelConfig."""


def _sizes(num_layers: int, hidden_size: int, heads: int, ffn_hidden_size: int, **others: object) -> dict[str, object]:
    sizes = {"num_layers": num_layers, "hidden_size": hidden_size}
    return sizes | {"num_attention_heads": heads, "ffn_hidden_size": ffn_hidden_size} | others


# The shapes of the paper's models, with the GELU that makes their names hold; rotary share, untied embeddings and
# vocabulary are Pythia's. The names count differently: 150m counts the layers alone, 400m the embeddings too.
_GPT_NEOX = {
    "architecture": "gpt_neox",
    "max_position_embeddings": 1024,
    "rotary_percent": 0.25,
    "untie_embeddings_and_output_weights": True,
}
_LLAMA = {"architecture": "llama", "max_position_embeddings": 8192, "rotary_base": 500000.0}

PRESETS: Mapping[str, Preset] = {
    "tiny": Preset(
        description="Llama, 4 layers x 128, 4 heads, FFN 512, tied: 2.1 M parameters at a vocabulary of 8,000; for "
        "tests and demos",
        vocab_size=8_000,
        num_parameters=2_081_920,
        values={"architecture": "llama", "max_position_embeddings": 1024} | _sizes(4, 128, 4, 512),
    ),
    "150m": Preset(
        description="GPT-NeoX, 12 layers x 1024, 16 heads, FFN 4096: 254.2 M parameters at a vocabulary of 50,277, "
        "151.2 M without embeddings; the paper's 150M",
        vocab_size=50_277,
        num_parameters=254_179_328,
        values=_GPT_NEOX | _sizes(12, 1024, 16, 4096),
    ),
    "400m": Preset(
        description="GPT-NeoX, 24 layers x 1024, 16 heads, FFN 4096: 405.3 M parameters at a vocabulary of 50,277, "
        "302.3 M without embeddings; the paper's 400M",
        vocab_size=50_277,
        num_parameters=405_334_016,
        values=_GPT_NEOX | _sizes(24, 1024, 16, 4096),
    ),
    "1b": Preset(
        description="GPT-NeoX, 24 layers x 2048, 16 heads, FFN 8192: 1.41 B parameters at a vocabulary of 50,277, "
        "1.21 B without embeddings; the paper's 1B",
        vocab_size=50_277,
        num_parameters=1_414_647_808,
        values=_GPT_NEOX | _sizes(24, 2048, 16, 8192),
    ),
    "llama-150m": Preset(
        description="Llama, 12 layers x 1024, 16 heads in 4 groups, FFN 2816, tied: 168.1 M parameters at a "
        "vocabulary of 32,000",
        vocab_size=32_000,
        num_parameters=168_059_904,
        values=_LLAMA | _sizes(12, 1024, 16, 2816, num_query_groups=4),
    ),
    "llama-400m": Preset(
        description="Llama, 24 layers x 1024, 16 heads in 4 groups, FFN 2816, tied: 303.4 M parameters at a "
        "vocabulary of 32,000",
        vocab_size=32_000,
        num_parameters=303_350_784,
        values=_LLAMA | _sizes(24, 1024, 16, 2816, num_query_groups=4),
    ),
    "llama-1b": Preset(
        description="Llama, 16 layers x 2048, 32 heads in 8 groups, FFN 8192, tied: 1.24 B parameters at a vocabulary "
        "of 128,256; the shape of Llama 3.2 1B, without its rope scaling",
        vocab_size=128_256,
        num_parameters=1_235_814_400,
        values=_LLAMA | _sizes(16, 2048, 32, 8192, num_query_groups=8),
    ),
    "llama-8b": Preset(
        description="Llama, 32 layers x 4096, 32 heads in 8 groups, FFN 14336, untied: 8.03 B parameters at a "
        "vocabulary of 128,256; the shape of Llama 3 8B",
        vocab_size=128_256,
        num_parameters=8_030_261_248,
        values=_LLAMA | _sizes(32, 4096, 32, 14336, num_query_groups=8, untie_embeddings_and_output_weights=True),
    ),
}
"""Values of `model.preset`, smallest first within each family."""
