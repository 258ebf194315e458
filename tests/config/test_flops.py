"""Model FLOPs against sums done by hand."""

from megatron_prealign.config.counts import count_flops_per_token, count_word_flops_per_token
from megatron_prealign.config.model import ModelConfig


def test_gated_mlp_with_shared_keys() -> None:
    model = ModelConfig(
        num_layers=3,
        hidden_size=8,
        num_attention_heads=4,
        num_query_groups=2,
        kv_channels=5,
        ffn_hidden_size=11,
        vocab_size=100,
        make_vocab_size_divisible_by=64,
    )
    # Queries 8 x 20, keys and values 8 x 10 each, output 20 x 8; gate, up and down 8 x 11 each.
    layer = 160 + 80 + 80 + 160 + 3 * 88
    assert layer == 744
    assert count_word_flops_per_token(model) == 6 * 3 * layer == 13_392
    # Of 16 positions a query sees 8 on average: 4 heads x 5 x 8 for scores and again for values, in 3 layers.
    attention, vocabulary = 3 * 2 * 4 * 5 * 8, 8 * 128
    assert count_flops_per_token(model, 16) == 13_392 + 6 * (attention + vocabulary) == 25_296


def test_plain_mlp_agrees_with_megatron_lms_formula() -> None:
    model = ModelConfig(
        architecture="gpt_neox",
        num_layers=12,
        hidden_size=768,
        num_attention_heads=12,
        ffn_hidden_size=3072,
        vocab_size=50_304,
    )
    # Megatron-LM: 12 s l h^2 (1 + groups/heads + s/h/2 + ffn/h + v/(2 l h)) a sequence.
    seq_length, layers, hidden = 1024, 12, 768
    terms = 1 + 1 + seq_length / hidden / 2 + 3072 / hidden + 50_304 / (2 * layers * hidden)
    assert count_flops_per_token(model, seq_length) == round(12 * layers * hidden**2 * terms)
