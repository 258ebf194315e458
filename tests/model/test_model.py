"""The network: its size, its initial weights, its masked padding, attention against megatron-core's own."""

import inspect
from typing import Any

import pytest
import torch

from megatron_prealign.config import Config, ModelConfig, count_parameters
from megatron_prealign.model import PrealignGPTModel, build_model_chunks
from megatron_prealign.model.attention import SDPAttention, additive_mask, segment_mask
from megatron_prealign.model.parameters import named_global_parameters
from megatron_prealign.model.transformer_config import build_transformer_config
from megatron_prealign.platform import (
    cpu,
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
    shut_down_distributed,
)

NUM_TOKENS = 100
SIZES: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "ffn_hidden_size": 48,
    "vocab_size": NUM_TOKENS,
    "make_vocab_size_divisible_by": 64,
}


@pytest.fixture(autouse=True)
def _one_rank() -> Any:
    platform = select_platform("cpu")
    initialize_distributed(platform)
    initialize_model_parallel(Config().parallel, seed=1)
    yield
    shut_down_distributed()
    cpu.uninstall()


def _build(**fields: Any) -> PrealignGPTModel:
    (model,) = build_model_chunks(Config(model=ModelConfig(**{**SIZES, **fields})), torch.device("cpu"))
    assert isinstance(model, PrealignGPTModel)
    return model


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt_neox"])
def test_parameter_count_is_what_the_summary_says(architecture: str, untied: bool) -> None:
    model = _build(architecture=architecture, untie_embeddings_and_output_weights=untied)
    fields = {**SIZES, "architecture": architecture, "untie_embeddings_and_output_weights": untied}
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(
        ModelConfig(**fields), NUM_TOKENS
    )


def test_initial_weights_are_addressed_by_seed_and_name() -> None:
    first, second = dict(named_global_parameters(_build())), dict(named_global_parameters(_build(num_layers=3)))
    for name, parameter in first.items():
        if not name.endswith(("linear_proj.weight", "linear_fc2.weight")):  # scaled by the number of layers
            assert torch.equal(parameter, second[name]), name
    assert not torch.equal(
        first["decoder.layers.0.mlp.linear_fc1.weight"], first["decoder.layers.1.mlp.linear_fc1.weight"]
    )


def test_initial_scale() -> None:
    weights = dict(named_global_parameters(_build(hidden_size=128, ffn_hidden_size=256, num_layers=8)))
    assert weights["decoder.layers.3.mlp.linear_fc1.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["decoder.layers.3.mlp.linear_fc2.weight"].std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert bool((weights["decoder.final_layernorm.weight"] == 1).all())


def test_padded_rows_do_not_count_and_get_no_gradient() -> None:
    model = _build(untie_embeddings_and_output_weights=True)
    tokens = torch.randint(0, NUM_TOKENS, (2, 8), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(8).expand(2, -1)
    logits = model(tokens, positions, None)
    expected = torch.nn.functional.cross_entropy(logits[..., :NUM_TOKENS].flatten(0, 1), tokens.flatten())
    loss = model(tokens, positions, None, labels=tokens).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    gradient = model.output_layer.weight.grad
    assert gradient[NUM_TOKENS:].abs().sum() == 0
    assert gradient[:NUM_TOKENS].abs().sum() > 0


def test_attention_equals_megatron_core() -> None:
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.enums import AttnMaskType

    config = _build(num_query_groups=2).config
    arguments = {"layer_number": 1, "attn_mask_type": AttnMaskType.causal, "attention_type": "self"}
    ours, theirs = SDPAttention(config, **arguments), DotProductAttention(config, **arguments)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(6, 2, 4, 8, generator=generator)
    key, value = (torch.randn(6, 2, 2, 8, generator=generator) for _ in range(2))
    mask = torch.ones(1, 1, 6, 6).triu(1).bool()
    torch.testing.assert_close(ours(query, key, value), theirs(query, key, value, mask), rtol=1e-5, atol=1e-6)


def test_layers_share_one_mask() -> None:
    model = _build(num_layers=3)
    size = 40
    tokens = torch.randint(0, NUM_TOKENS, (2, size), generator=torch.Generator().manual_seed(0))
    masks: set[int] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-2:] == (size, size):
            masks.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        segments = (torch.arange(size) // 15).expand(2, -1)
        loss = model(tokens, torch.arange(size).expand(2, -1), segment_mask(segments), labels=tokens)
    assert len(masks) == 1
    loss.mean().backward()


def test_on_gpus_bias_and_gelu_are_one_kernel_of_the_same_function() -> None:
    from megatron.core.fusions.fused_bias_gelu import bias_gelu

    config = Config(model=ModelConfig(**{**SIZES, "architecture": "gpt_neox"}))
    fused = build_transformer_config(config, "cuda")
    # megatron-core fuses them where it finds this very function.
    assert fused.bias_activation_fusion
    assert fused.activation_func is torch.nn.functional.gelu
    numbers, bias = torch.linspace(-6, 6, 101)[:, None], torch.tensor([0.5])
    expected = build_transformer_config(config, "cpu").activation_func(numbers + bias)
    torch.testing.assert_close(inspect.unwrap(bias_gelu)(bias, numbers), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_groups_and_a_mask_on_a_gpu_need_no_kernel_that_holds_all_scores() -> None:
    from megatron.core.transformer.enums import AttnMaskType
    from torch.nn.attention import SDPBackend, sdpa_kernel

    config = _build(num_query_groups=2).config
    attention = SDPAttention(config, 1, AttnMaskType.causal, "self")
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(6, 2, 4, 8, generator=generator)
    key, value = (torch.randn(6, 2, 2, 8, generator=generator) for _ in range(2))
    mask = additive_mask(torch.ones(1, 1, 6, 6).triu(1).bool(), torch.float32)
    expected = attention(query, key, value, mask)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        result = attention(query.cuda(), key.cuda(), value.cuda(), mask.cuda())
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-5)
