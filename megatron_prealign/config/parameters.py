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


def count_layer_matrices(model: ModelConfig) -> int:
    """Count the weights of one layer's matrices, without biases and norms."""
    query = model.num_attention_heads * model.head_size
    key_value = 2 * model.num_key_value_heads * model.head_size
    mlp = (3 if model.traits.has_gated_mlp else 2) * model.ffn_hidden_size  # a gate beside the up projection
    return model.hidden_size * (2 * query + key_value + mlp)


def count_non_embedding_parameters(model: ModelConfig) -> int:
    """Count the parameters of the layers and the final norm: what does not depend on the vocabulary."""
    hidden, ffn, traits = model.hidden_size, model.ffn_hidden_size, model.traits
    attention = model.num_attention_heads * model.head_size
    qkv = attention + 2 * model.num_key_value_heads * model.head_size
    fc1 = 2 * ffn if traits.has_gated_mlp else ffn  # a gated MLP has a gate beside the up projection
    norm = hidden if traits.normalization == "RMSNorm" else 2 * hidden  # LayerNorm has a bias beside its weight
    biases = qkv if traits.has_qkv_bias else 0
    if traits.has_linear_bias:
        biases += hidden + fc1 + hidden
    qk_norms = 2 * model.head_size if traits.has_qk_norm else 0
    return model.num_layers * (count_layer_matrices(model) + biases + qk_norms + 2 * norm) + norm
