"""Parameters of a model and floating-point operations of its training, from the configuration alone.

Only operations that the model needs are counted (Megatron-LM's formula; PaLM's, minus what a causal mask saves): matrix
products, two operations per multiplication, three times for forward and backward pass. Recomputation, norms,
activations and embedding look-ups are not counted.
"""

from dataclasses import replace

from megatron_prealign.config.model import ModelConfig

_OPERATIONS = 2 * 3
"""A multiplication and an addition; forward, gradient of the input and gradient of the weight."""


def count_parameters(model: ModelConfig, vocab_size: int) -> int:
    """Count all parameters, including biases, norms and padded embedding rows.

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
    mlp = (3 if model.traits.has_gated_mlp else 2) * model.ffn_hidden_size  # gate and up projection
    return model.hidden_size * (2 * query + key_value + mlp)


def count_non_embedding_parameters(model: ModelConfig) -> int:
    """Count the parameters of the layers and the final norm, which do not depend on the vocabulary."""
    hidden, ffn, traits = model.hidden_size, model.ffn_hidden_size, model.traits
    attention = model.num_attention_heads * model.head_size
    qkv = attention + 2 * model.num_key_value_heads * model.head_size
    fc1 = 2 * ffn if traits.has_gated_mlp else ffn  # gate and up projection
    norm = hidden if traits.normalization == "RMSNorm" else 2 * hidden  # LayerNorm also has a bias
    biases = qkv if traits.has_qkv_bias else 0
    if traits.has_linear_bias:
        biases += hidden + fc1 + hidden
    qk_norms = 2 * model.head_size if traits.has_qk_norm else 0
    return model.num_layers * (count_layer_matrices(model) + biases + qk_norms + 2 * norm) + norm


def count_flops_per_token(model: ModelConfig, seq_length: int) -> int:
    """Count the operations of training per token of language modelling.

    Args:
        model: Sizes and architecture, preset and vocabulary resolved.
        seq_length: Tokens per sequence.
    """
    # A position sees half of the sequence on average: once for the scores, once for the sum of values.
    attention = 2 * model.num_layers * model.num_attention_heads * model.head_size * seq_length // 2
    vocabulary = model.hidden_size * model.padded_vocab_size
    return count_word_flops_per_token(model) + _OPERATIONS * (attention + vocabulary)


def count_word_flops_per_token(model: ModelConfig) -> int:
    """Count the operations of training per token of stage 1's words.

    Words do not pass the vocabulary projection. Attention within the few tokens of a word and the contrastive loss are
    not counted.
    """
    return _OPERATIONS * model.num_layers * count_layer_matrices(model)
