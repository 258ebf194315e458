"""Floating-point operations of training, from the configuration alone.

Only what the model needs is counted (Megatron-LM's formula, PaLM's without what a causal mask saves): multiplications
of matrices, two operations each, thrice for forward and backward pass. Recomputation, norms, activations and the
look-up of embeddings are left out.
"""

from megatron_prealign.config.model import ModelConfig
from megatron_prealign.config.parameters import count_layer_matrices

_OPERATIONS = 2 * 3
"""A multiplication and an addition; forward, gradient of the input and gradient of the weight."""


def count_flops_per_token(model: ModelConfig, seq_length: int) -> int:
    """Count the operations that training takes a token of language modelling.

    Args:
        model: Sizes and architecture, preset and vocabulary resolved.
        seq_length: Tokens a sequence.
    """
    # A position sees half of the sequence on average: once for the scores, once for the sum of values.
    attention = 2 * model.num_layers * model.num_attention_heads * model.head_size * seq_length // 2
    vocabulary = model.hidden_size * model.padded_vocab_size
    return count_word_flops_per_token(model) + _OPERATIONS * (attention + vocabulary)


def count_word_flops_per_token(model: ModelConfig) -> int:
    """Count the operations that training takes a token of stage 1's words.

    Words end below the vocabulary projection. Attention within the few tokens of a word and the contrastive loss are
    left out.
    """
    return _OPERATIONS * model.num_layers * count_layer_matrices(model)
