"""Presets: what each says of itself holds, and the count equals Hugging Face's models of the same shape."""

import dataclasses
from typing import Literal

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from megatron_prealign.config import (
    PRESETS,
    ModelConfig,
    config_from_dict,
    count_non_embedding_parameters,
    count_parameters,
    find_problems,
)


def count_in_hugging_face(model: ModelConfig, rows: int) -> int:
    """Count the parameters of Hugging Face's model with `rows` embedding rows; no memory is filled."""
    shape = {
        "vocab_size": rows,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "intermediate_size": model.ffn_hidden_size,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
    }
    with torch.device("meta"):
        network: torch.nn.Module
        if model.architecture == "llama":
            groups = model.num_query_groups or model.num_attention_heads
            network = LlamaForCausalLM(LlamaConfig(num_key_value_heads=groups, **shape))
        else:
            network = GPTNeoXForCausalLM(GPTNeoXConfig(**shape))
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_stated_counts_hold(name: str) -> None:
    preset = PRESETS[name]
    model = config_from_dict({"model": {"preset": name}}).model
    total = count_parameters(model, preset.vocab_size)
    assert total == preset.num_parameters
    rows = dataclasses.replace(model, vocab_size=preset.vocab_size).padded_vocab_size
    assert total == count_in_hugging_face(model, rows)
    assert f"at a vocabulary of {preset.vocab_size:,}" in preset.description
    assert f"{_rounded(total)} parameters" in preset.description
    if "without embeddings" in preset.description:
        assert f"{_rounded(count_non_embedding_parameters(model))} without embeddings" in preset.description


def _rounded(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


@pytest.mark.parametrize("name", PRESETS)
def test_description_names_the_shape(name: str) -> None:
    description, model = PRESETS[name].description, config_from_dict({"model": {"preset": name}}).model
    architecture = {"llama": "Llama", "gpt_neox": "GPT-NeoX"}[model.architecture]
    assert description.startswith(f"{architecture}, {model.num_layers} layers x {model.hidden_size}, ")
    assert f", {model.num_attention_heads} heads" in description
    assert f"FFN {model.ffn_hidden_size}" in description
    if model.num_query_groups is not None:
        assert f"in {model.num_query_groups} groups" in description


@pytest.mark.parametrize("name", PRESETS)
def test_presets_contradict_nothing(name: str) -> None:
    config = config_from_dict({"model": {"preset": name}, "data": {"seq_length": 1024}})
    assert [problem for problem in find_problems(config) if "--model." in problem] == []


@pytest.mark.parametrize(("architecture", "groups"), [("llama", None), ("llama", 2), ("gpt_neox", None)])
@pytest.mark.parametrize("untied", [False, True])
def test_count_of_small_models(architecture: Literal["llama", "gpt_neox"], groups: int | None, untied: bool) -> None:
    model = ModelConfig(
        architecture=architecture,
        num_layers=3,
        hidden_size=48,
        num_attention_heads=6,
        num_query_groups=groups,
        ffn_hidden_size=100,
        make_vocab_size_divisible_by=64,
        untie_embeddings_and_output_weights=untied,
    )
    # 129 tokens take 192 rows, 128 take 128.
    assert count_parameters(model, 129) == count_in_hugging_face(model, 192)
    assert count_parameters(model, 128) == count_in_hugging_face(model, 128)
