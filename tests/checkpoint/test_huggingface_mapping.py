"""Name tables and transforms: exact round trips against transformers' own models, and strictness."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_prealign.checkpoint.huggingface import to_huggingface
from megatron_prealign.checkpoint.huggingface.config import model_config_json
from megatron_prealign.checkpoint.huggingface.mapping import check_huggingface, weight_rows
from megatron_prealign.checkpoint.huggingface.transforms import Sizes
from megatron_prealign.config import ModelConfig
from megatron_prealign.errors import CheckpointError

LLAMA = ModelConfig(
    architecture="llama",
    num_layers=2,
    hidden_size=24,
    num_attention_heads=6,
    num_query_groups=2,
    ffn_hidden_size=40,
    vocab_size=37,
    make_vocab_size_divisible_by=16,
    untie_embeddings_and_output_weights=True,
)
GPT_NEOX = replace(LLAMA, architecture="gpt_neox", num_query_groups=None, rotary_percent=0.5)
QWEN2 = replace(LLAMA, architecture="qwen2")
QWEN3 = replace(LLAMA, architecture="qwen3", kv_channels=8)

VARIANTS = [
    pytest.param(replace(base, num_query_groups=groups, untie_embeddings_and_output_weights=untied, vocab_size=vocab))
    for base in (LLAMA, QWEN2, QWEN3, GPT_NEOX)
    for groups in ((None, 2, 1) if base.traits.shares_keys else (None,))
    for untied in (False, True)
    for vocab in (37, 48)
]


def random_state(model: ModelConfig) -> dict[str, Tensor]:
    """Return random Megatron weights; padding rows are random too, as after initialisation."""
    generator = torch.Generator().manual_seed(1)
    sizes = Sizes.of(model)
    return {row.megatron: torch.randn(sizes.shape(row.axes), generator=generator) for row in weight_rows(model)}


def from_huggingface(tensors: dict[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Convert all weights of a folder as an import does."""
    check_huggingface({name: tuple(tensor.shape) for name, tensor in tensors.items()}, model)
    return {row.megatron: row.merge(tensors, Sizes.of(model)) for row in weight_rows(model)}


@pytest.mark.parametrize("model", VARIANTS)
def test_round_trip_is_exact_and_names_are_those_of_transformers(model: ModelConfig) -> None:
    state = random_state(model)
    converted = to_huggingface(state, model)

    settings = model_config_json(model, {}, "float32", 32)
    settings["architectures"] = None
    reference = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).state_dict()
    if not model.untie_embeddings_and_output_weights:
        del reference["lm_head.weight"]
    elif model.architecture == "gpt_neox":
        reference["embed_out.weight"] = reference.pop("lm_head.weight")
    assert {name: tensor.shape for name, tensor in converted.items()} == {
        name: tensor.shape for name, tensor in reference.items()
    }

    back = from_huggingface(converted, model)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        expected = tensor.clone()
        if name in ("embedding.word_embeddings.weight", "output_layer.weight"):
            expected[37 if model.vocab_size == 37 else 48 :] = 0
        assert torch.equal(back[name], expected), name
    again = to_huggingface(back, model)
    assert all(torch.equal(again[name], tensor) for name, tensor in converted.items())


def test_queries_keys_and_values_are_taken_group_by_group() -> None:
    # 6 heads of size 4 in 2 groups: a group's rows are 3 query heads, its key head, its value head.
    state = random_state(LLAMA)
    name = "decoder.layers.1.self_attention.linear_qkv.weight"
    rows = torch.arange(40).float()
    state[name] = rows[:, None].expand(40, 24).clone()
    converted = to_huggingface(state, LLAMA)
    first_column = {
        part: converted[f"model.layers.1.self_attn.{part}_proj.weight"][:, 0].tolist() for part in ("q", "k", "v")
    }
    assert first_column["q"] == [*range(12), *range(20, 32)]
    assert first_column["k"] == [*range(12, 16), *range(32, 36)]
    assert first_column["v"] == [*range(16, 20), *range(36, 40)]


def test_gate_comes_before_up() -> None:
    state = random_state(LLAMA)
    fused = state["decoder.layers.0.mlp.linear_fc1.weight"]
    converted = to_huggingface(state, LLAMA)
    assert torch.equal(converted["model.layers.0.mlp.gate_proj.weight"], fused[:40])
    assert torch.equal(converted["model.layers.0.mlp.up_proj.weight"], fused[40:])


@pytest.mark.parametrize("model", [LLAMA, QWEN2, QWEN3, GPT_NEOX])
def test_transformer_engine_names_and_extra_state_are_understood(model: ModelConfig) -> None:
    state = random_state(model)
    fused = {}
    for name, tensor in state.items():
        name = name.replace(".input_layernorm.", ".self_attention.linear_qkv.layer_norm_")
        name = name.replace(".pre_mlp_layernorm.", ".mlp.linear_fc1.layer_norm_")
        fused[name] = tensor
    assert fused.keys() != state.keys()
    fused["decoder.layers.0.self_attention.linear_qkv._extra_state"] = torch.zeros(3, dtype=torch.uint8)
    expected = to_huggingface(state, model)
    found = to_huggingface(fused, model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_every_missing_unknown_and_misshapen_weight_is_listed() -> None:
    state = random_state(LLAMA)
    del state["decoder.final_layernorm.weight"]
    state["decoder.layers.2.mlp.linear_fc2.weight"] = torch.zeros(24, 40)
    state["output_layer.weight"] = torch.zeros(64, 24)
    with pytest.raises(CheckpointError) as caught:
        to_huggingface(state, LLAMA)
    assert caught.value.problems == [
        "Megatron weight decoder.final_layernorm.weight is missing",
        "Megatron weight decoder.layers.2.mlp.linear_fc2.weight is unknown to this architecture",
        "Megatron weight output_layer.weight has shape [64, 24], but the model section says [48, 24]",
    ]
    tensors = to_huggingface(random_state(LLAMA), LLAMA)
    tensors["model.norm.bias"] = tensors.pop("model.norm.weight")
    with pytest.raises(CheckpointError, match=r"Hugging Face weight model\.norm\.weight is missing") as caught:
        from_huggingface(tensors, LLAMA)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (replace(GPT_NEOX, num_query_groups=2), "num_query_groups is 2.*one key and value per attention head"),
        (replace(LLAMA, rotary_percent=0.5), "rotary_percent is 0.5.*rotates whole heads"),
        (replace(QWEN2, kv_channels=8), "kv_channels is 8.*Qwen2's heads.*are hidden_size / num_attention_heads wide"),
        (replace(LLAMA, vocab_size=None), "vocab_size is not set"),
        (
            replace(LLAMA, architecture="mamba"),
            "has no Hugging Face equivalent; choose from llama, mistral, qwen2, qwen3, smollm3, gpt_neox",
        ),
    ],
)
def test_settings_without_counterpart_are_refused_with_the_reason(model: ModelConfig, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        to_huggingface({}, model)
