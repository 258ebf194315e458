"""Which layers are chosen, and why, with megatron-core's own spec builders."""

import functools
from typing import Any

import megatron.core
import pytest
from megatron.core.extensions import transformer_engine as te_layers
from megatron.core.extensions import transformer_engine_spec_provider
from megatron.core.fusions.fused_layer_norm import FusedLayerNorm
from megatron.core.models.gpt import gpt_layer_specs
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_layer import TransformerLayer

from megatron_prealign.config import Config, ModelConfig, config_from_dict
from megatron_prealign.errors import ConfigError
from megatron_prealign.model import layer_spec
from megatron_prealign.model.attention import SDPAttention
from megatron_prealign.model.layer_spec import Norm, build_block_spec, select_implementation
from megatron_prealign.model.transformer_config import build_transformer_config
from megatron_prealign.platform import cpu as redirection
from megatron_prealign.platform import (
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
    shut_down_distributed,
)

BOTH = ("transformer_engine", "apex")


@pytest.fixture
def _one_rank() -> Any:
    initialize_distributed(select_platform("cpu"))
    initialize_model_parallel(Config().parallel, seed=1)
    yield
    shut_down_distributed()
    redirection.uninstall()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes packages seem installed, the others not."""

    def pretend(*packages: str) -> None:
        monkeypatch.setattr(layer_spec, "is_usable", lambda package: package in packages)
        if "transformer_engine" in packages:
            provider = transformer_engine_spec_provider.TESpecProvider
            # megatron-core's builder has it only where the package can be imported.
            monkeypatch.setattr(gpt_layer_specs, "TESpecProvider", provider, raising=False)
            monkeypatch.setattr(transformer_engine_spec_provider, "is_te_min_version", lambda *_: True)

    return pretend


@pytest.mark.parametrize(
    ("architecture", "asked_for", "device", "packages", "expected"),
    [
        ("llama", "auto", "cuda", BOTH, "Transformer Engine layers (installed): fused"),
        ("llama", "transformer_engine", "cuda", BOTH, "Transformer Engine layers (asked for): fused"),
        ("gpt_neox", "local", "cuda", BOTH, "local layers (asked for): PyTorch's attention, apex's norms"),
        ("gpt_neox", "auto", "cuda", ("apex",), "local layers (no Transformer Engine): PyTorch's attention, apex's"),
        ("llama", "auto", "cuda", ("apex",), "PyTorch's norms (megatron-core wraps apex's LayerNorm alone)"),
        ("gpt_neox", "auto", "cuda", (), "PyTorch's norms (no apex)"),
        ("gpt_neox", "auto", "cpu", BOTH, "local layers (on cpu): PyTorch's attention, PyTorch's norms (on cpu)"),
    ],
)
def test_the_choice_says_why(
    architecture: str, asked_for: str, device: str, packages: tuple[str, ...], expected: str, install: Any
) -> None:
    install(*packages)
    model = ModelConfig(architecture=architecture, transformer_impl=asked_for)  # type: ignore[arg-type]
    _, reason = select_implementation(model, device)
    assert expected in reason


@pytest.mark.parametrize(("device", "packages"), [("cpu", ("transformer_engine",)), ("cuda", ("apex",))])
def test_what_cannot_run_is_refused(device: str, packages: tuple[str, ...], install: Any) -> None:
    install(*packages)
    with pytest.raises(ConfigError, match="transformer_impl transformer_engine needs a GPU and the package"):
        select_implementation(ModelConfig(transformer_impl="transformer_engine"), device)
    fp8 = config_from_dict({"training": {"fp8": "hybrid", "precision": "bf16"}})
    with pytest.raises(ConfigError, match="fp8 hybrid needs Transformer Engine layers, which need a GPU and the"):
        build_transformer_config(fp8, device)


def _build(architecture: str) -> Any:
    model = ModelConfig(architecture=architecture, num_layers=3)  # type: ignore[arg-type]
    return build_block_spec(model, build_transformer_config(Config(model=model), "cpu"), "cuda")


def _mlp_parts(spec: Any) -> Any:
    """Return the submodules of a layer's MLP: of a ModuleSpec, or from 0.18 on an argument of a partial function."""
    mlp = spec.submodules.mlp
    return mlp.keywords["submodules"] if isinstance(mlp, functools.partial) else mlp.submodules


def test_transformer_engine_layers_are_megatrons_with_attention_that_obeys_masks(install: Any) -> None:
    install("transformer_engine")
    spec = _build("qwen3")
    assert spec.module is TransformerLayer
    attention, mlp = spec.submodules.self_attention.submodules, _mlp_parts(spec)
    assert attention.linear_qkv is mlp.linear_fc1 is te_layers.TELayerNormColumnParallelLinear
    assert attention.linear_proj is mlp.linear_fc2 is te_layers.TERowParallelLinear
    assert attention.q_layernorm is attention.k_layernorm is te_layers.TENorm
    assert spec.submodules.input_layernorm is spec.submodules.pre_mlp_layernorm is IdentityOp  # fused
    assert attention.core_attention is not te_layers.TEDotProductAttention


@pytest.mark.usefixtures("_one_rank")
@pytest.mark.parametrize(
    ("architecture", "packages", "norm"),
    [("gpt_neox", ("apex",), FusedLayerNorm), ("gpt_neox", (), Norm), ("qwen3", ("apex",), Norm)],
)
def test_local_layers_take_apex_norms_where_they_can(
    architecture: str, packages: tuple[str, ...], norm: type, install: Any
) -> None:
    install(*packages)
    block = _build(architecture)
    assert block.layer_norm is norm
    assert len(block.layer_specs) == 3
    for spec in block.layer_specs:
        attention, mlp = spec.submodules.self_attention.submodules, _mlp_parts(spec)
        assert attention.linear_qkv is mlp.linear_fc1 is ColumnParallelLinear
        assert attention.linear_proj is mlp.linear_fc2 is RowParallelLinear
        assert attention.core_attention is SDPAttention
        assert spec.submodules.input_layernorm is spec.submodules.pre_mlp_layernorm is norm
        assert attention.q_layernorm is attention.k_layernorm is (norm if architecture == "qwen3" else IdentityOp)
        # Checkpoints of both kinds bear the same names.
        assert spec.submodules.sharded_state_dict_keys_map == {
            "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
            "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
        }


@pytest.mark.parametrize(
    ("interleaved", "version", "frees"),
    [
        (True, "0.16.1", False),
        (True, "0.18.1", False),
        (True, "0.18.2", True),
        (True, "0.19.2", True),
        (False, "0.16.1", True),
    ],
)
def test_sent_outputs_are_freed_on_gpus_only_where_megatron_core_waits_for_nccl(
    interleaved: bool, version: str, frees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(megatron.core, "__version__", version)
    parallel = {
        "pipeline_model_parallel_size": 2,
        "virtual_pipeline_model_parallel_size": 2 if interleaved else None,
    }
    config = config_from_dict({"parallel": parallel})
    assert build_transformer_config(config, "cuda").deallocate_pipeline_outputs is frees
    assert build_transformer_config(config, "cpu").deallocate_pipeline_outputs is False
