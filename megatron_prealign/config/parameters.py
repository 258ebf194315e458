"""How many parameters a model has, from its configuration alone."""

from dataclasses import replace

from megatron_prealign.config.model import ModelConfig


def count_parameters(model: ModelConfig, vocab_size: int) -> int:
    """Count all parameters, padded embedding rows included, biases and norms too.

    Args:
        model: Sizes and architecture, preset resolved.
        vocab_size: Vocabulary in tokens before padding.
    """
    rows = replace(model, vocab_size=vocab_size).padded_vocab_size
    num_embeddings = 2 if model.untie_embeddings_and_output_weights else 1
    return num_embeddings * rows * model.hidden_size + count_non_embedding_parameters(model)


def count_non_embedding_parameters(model: ModelConfig) -> int:
    """Count the parameters of the layers and the final norm: what does not depend on the vocabulary."""
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    groups = model.num_query_groups or model.num_attention_heads
    qkv = hidden + 2 * groups * (hidden // model.num_attention_heads)
    has_biases = model.architecture == "gpt_neox"
    fc1 = ffn if has_biases else 2 * ffn  # SwiGLU has a gate beside the up projection
    norm = 2 * hidden if has_biases else hidden  # LayerNorm has a bias beside its weight
    weights = hidden * (qkv + hidden + fc1 + ffn)
    biases = qkv + hidden + fc1 + hidden if has_biases else 0
    return model.num_layers * (weights + biases + 2 * norm) + norm
