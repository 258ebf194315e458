"""Choose the modules of a transformer layer on this machine."""

import dataclasses
from typing import Any, Literal

import torch
from megatron.core.fusions.fused_layer_norm import FusedLayerNorm
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional

from megatron_prealign.config import ModelConfig
from megatron_prealign.errors import ConfigError
from megatron_prealign.model.attention import SDPAttention, transformer_engine_attention
from megatron_prealign.optional_packages import find_problems, is_usable
from megatron_prealign.platform.matrix_products import prefers_onednn


class Norm(torch.nn.Module):
    """RMSNorm or LayerNorm over the last dimension, by `config.normalization`; also under sequence parallelism.

    megatron-core's wrapper of torch norms refuses sequence parallelism: it does not mark the parameters for
    `finalize_model_grads` to sum their gradients over tensor-parallel ranks.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        """Take the arguments of megatron-core's norms."""
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.bias: torch.nn.Parameter | None = None
        if config.normalization == "LayerNorm":
            self.bias = torch.nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype))
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise [..., H] over H."""
        if self.bias is None:
            return functional.rms_norm(hidden, self.weight.shape, self.weight, self.eps)
        return functional.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)


def select_implementation(model: ModelConfig, device: str) -> tuple[Literal["transformer_engine", "local"], str]:
    """Return the layer implementation and a description with the reason.

    Raises:
        ConfigError: Transformer Engine is asked for but can't run.
    """
    asked_for = model.transformer_impl
    usable = device == "cuda" and is_usable("transformer_engine")
    problem = find_problems().get("transformer_engine") if device == "cuda" else None
    if asked_for == "transformer_engine" and problem is not None:
        raise ConfigError(
            f"model.transformer_impl transformer_engine: {problem}; or choose auto or local, which use local layers"
        )
    if asked_for == "transformer_engine" and not usable:
        raise ConfigError(
            "model.transformer_impl transformer_engine needs a GPU and the package transformer-engine "
            "(pip install 'megatron-prealign[gpu]'); use auto or local here"
        )
    if usable and asked_for != "local":
        reason = "installed" if asked_for == "auto" else "asked for"
        return "transformer_engine", f"Transformer Engine layers ({reason}): fused norms, attention and linear layers"
    missing = "no Transformer Engine" if problem is None else "Transformer Engine can't be imported"
    reason = "asked for" if asked_for == "local" else "on cpu" if device == "cpu" else missing
    products = ", oneDNN's fp32 matrix products (AMD's CPU)" if device == "cpu" and prefers_onednn() else ""
    return "local", f"local layers ({reason}): PyTorch's attention, {_choose_norm(model, device)[1]}{products}"


def _choose_norm(model: ModelConfig, device: str) -> tuple[type, str]:
    """Return the norm of local layers and a description with the reason."""
    if device == "cpu":
        return Norm, "PyTorch's norms (on cpu)"
    if not is_usable("apex"):
        missing = "no apex" if find_problems().get("apex") is None else "apex can't be imported"
        return Norm, f"PyTorch's norms ({missing})"
    if model.traits.normalization != "LayerNorm":
        return Norm, "PyTorch's norms (megatron-core wraps apex's LayerNorm alone)"
    return FusedLayerNorm, "apex's norms (installed)"


def build_block_spec(
    model: ModelConfig, config: TransformerConfig, device: str, vp_stage: int | None = None
) -> TransformerBlockSubmodules | ModuleSpec:
    """Return the spec of this pipeline stage's block of layers."""
    implementation, _ = select_implementation(model, device)
    if implementation == "transformer_engine":
        layer = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
        return _with_attention(layer, core_attention=transformer_engine_attention())
    norm, _ = _choose_norm(model, device)
    layer = get_gpt_layer_local_spec(normalization=config.normalization, qk_layernorm=config.qk_layernorm)
    qk_norms = {"q_layernorm": norm, "k_layernorm": norm} if config.qk_layernorm else {}
    layer = _with_attention(layer, core_attention=SDPAttention, **qk_norms)
    layer = dataclasses.replace(
        layer, submodules=dataclasses.replace(layer.submodules, input_layernorm=norm, pre_mlp_layernorm=norm)
    )
    num_layers = get_num_layers_to_build(config, vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=norm)


def _with_attention(layer: ModuleSpec, **parts: type) -> ModuleSpec:
    """Return the layer's spec with some parts of its self-attention replaced."""
    attention = layer.submodules.self_attention
    attention = dataclasses.replace(attention, submodules=dataclasses.replace(attention.submodules, **parts))
    return dataclasses.replace(layer, submodules=dataclasses.replace(layer.submodules, self_attention=attention))
