"""Translate the configuration to megatron-core's TransformerConfig."""

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_prealign.config import Config, ModelConfig, TrainingConfig
from megatron_prealign.config.model import ArchitectureTraits
from megatron_prealign.errors import ConfigError
from megatron_prealign.model.layer_spec import select_implementation
from megatron_prealign.optional_packages import find_problems, is_usable
from megatron_prealign.platform.distributed import can_free_sent_outputs

PARAMS_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def gelu_tanh(hidden: torch.Tensor) -> torch.Tensor:
    """Apply the tanh form of GELU, which fused kernels compute and the export declares."""
    return torch.nn.functional.gelu(hidden, approximate="tanh")


def _activation(traits: ArchitectureTraits, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    if traits.has_gated_mlp:
        return torch.nn.functional.silu
    # megatron-core fuses bias and GELU where it finds this function, and computes the tanh form.
    return torch.nn.functional.gelu if device == "cuda" else gelu_tanh


def leave_empty(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight as it is."""
    return weight


def build_transformer_config(config: Config, device: str) -> TransformerConfig:
    """Return megatron-core's TransformerConfig for this run.

    Raises:
        ConfigError: fp8 or Transformer Engine is asked for but can't run.
    """
    model, parallel, training = config.model, config.parallel, config.training
    traits = model.traits
    implementation, _ = select_implementation(model, device)
    _check_fp8(training.fp8, implementation, device)
    interleaved = parallel.virtual_pipeline_model_parallel_size is not None
    transformer = TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_key_value_heads,
        kv_channels=model.head_size,
        ffn_hidden_size=model.ffn_hidden_size,
        layernorm_epsilon=model.norm_epsilon,
        normalization=traits.normalization,
        qk_layernorm=traits.has_qk_norm,
        gated_linear_unit=traits.has_gated_mlp,
        activation_func=_activation(traits, device),
        add_bias_linear=traits.has_linear_bias,
        add_qkv_bias=traits.has_qkv_bias,
        hidden_dropout=model.hidden_dropout,
        attention_dropout=model.attention_dropout,
        init_method_std=model.init_method_std,
        # Addressed draws fill the weights afterwards. Initialisation draws nothing, but must run: it marks the
        # parameters that tensor parallelism splits.
        init_method=leave_empty,
        output_layer_init_method=leave_empty,
        embedding_init_method=leave_empty,
        use_cpu_initialization=device == "cpu",
        **_precision(training),
        **_recomputation(training),
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        # Interleaving with batched point-to-point calls and two stages silently gives wrong gradients; overlapped,
        # unbatched calls are right.
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=not interleaved,
        # Freeing an output after sending is safe in the order of a CUDA stream; gloo may still read it.
        deallocate_pipeline_outputs=device == "cuda"
        and parallel.pipeline_model_parallel_size > 1
        and can_free_sent_outputs(interleaved),
        gradient_accumulation_fusion=device == "cuda" and is_usable("fused_weight_gradient_mlp_cuda"),
        masked_softmax_fusion=False,
        # The fused forms compile for cuda only.
        bias_activation_fusion=device == "cuda",
        bias_dropout_fusion=device == "cuda",
        persist_layer_norm=False,
        apply_rope_fusion=implementation == "transformer_engine",
        attention_softmax_in_fp32=True,
    )
    return _with_positions(transformer, model)


def _with_positions(transformer: TransformerConfig, model: ModelConfig) -> TransformerConfig:
    """Set which layers have rotary embeddings, and what GPTModel reads for YaRN.

    For the latter megatron-core has fields only in the configuration of another attention.
    """
    if (every := model.no_rope_freq) is not None:
        transformer.no_rope_freq = [int((layer + 1) % every == 0) for layer in range(model.num_layers)]
    if model.rope_scaling != "yarn":
        return transformer
    transformer.yarn_rotary_scaling_factor = model.rope_scaling_factor
    transformer.yarn_original_max_position_embeddings = model.original_max_position_embeddings
    transformer.yarn_beta_fast, transformer.yarn_beta_slow = 32.0, 1.0
    # None: the length alone determines by how much attention is sharpened.
    transformer.yarn_mscale = transformer.yarn_mscale_all_dim = None
    transformer.yarn_correction_range_round_to_int = True
    return transformer


def _check_fp8(fp8: str, implementation: str, device: str) -> None:
    if fp8 != "none" and implementation == "local":
        problem = find_problems().get("transformer_engine")
        if device == "cuda" and problem is not None:
            raise ConfigError(f"training.fp8 {fp8} needs Transformer Engine layers: {problem}; or set it to none")
        raise ConfigError(
            f"training.fp8 {fp8} needs Transformer Engine layers, which need a GPU and the package transformer-engine "
            "(pip install 'megatron-prealign[gpu]'); otherwise set it to none"
        )


def _precision(training: TrainingConfig) -> dict[str, Any]:
    dtype = PARAMS_DTYPE[training.precision]
    return {
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": training.precision == "bf16",
        "fp16": training.precision == "fp16",
        "fp8": None if training.fp8 == "none" else training.fp8,
        # The cache makes Transformer Engine overwrite the gradients of an earlier pass, such as of words.
        "disable_parameter_transpose_cache": training.fp8 != "none",
    }


def _recomputation(training: TrainingConfig) -> dict[str, Any]:
    is_full = training.recompute == "full"
    modules = {"selective": "core_attn", "mlp": "mlp"}
    return {
        "recompute_granularity": {"none": None, "full": "full"}.get(training.recompute, "selective"),
        "recompute_modules": [modules[training.recompute]] if training.recompute in modules else None,
        "recompute_method": "uniform" if is_full else None,
        "recompute_num_layers": training.recompute_num_layers if is_full else None,
    }
