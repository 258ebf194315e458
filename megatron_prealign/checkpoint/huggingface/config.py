"""config.json of a Hugging Face folder, written by hand.

transformers 4.x and 5.x name the same settings differently and silently use defaults if they don't find theirs (a
rotary base of 500,000 becomes 10,000), so both names are written.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_prealign.checkpoint.huggingface.mapping import architecture_of
from megatron_prealign.config import ModelConfig


def model_config_json(
    model: ModelConfig, special_ids: Mapping[str, Any], dtype: str, training_seq_length: int
) -> dict[str, Any]:
    """Return the content of config.json.

    Args:
        model: the model section of the checkpoint's config, vocab_size set.
        special_ids: by their names there; never the architecture's defaults, which are other tokens here.
        dtype: of the stored weights, "float32" or "bfloat16".
        training_seq_length: tokens a training sample had; kept so that evaluation need not guess what was trained.

    Raises:
        CheckpointError: a setting has no counterpart in the architecture.
    """
    architecture = architecture_of(model)
    scaling = _rope_scaling(model)
    rope: dict[str, Any] = {"rope_type": "default", **(scaling or {}), "rope_theta": model.rotary_base}
    content: dict[str, Any] = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "max_position_embeddings": model.max_position_embeddings,
        "training_seq_length": training_seq_length,
        "initializer_range": model.init_method_std,
        "attention_dropout": 0.0,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        **special_ids,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
        "rope_parameters": rope,
        "rope_theta": model.rotary_base,
        "rope_scaling": scaling,
    }
    fields = _gpt_neox_fields(model, rope) if model.architecture == "gpt_neox" else _llama_like_fields(model)
    return content | fields


LLAMA3_FACTORS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""The other settings of rope scaling as in Llama 3.1 that megatron-core computes."""


def _rope_scaling(model: ModelConfig) -> dict[str, Any] | None:
    if model.rope_scaling == "none":
        return None
    scaling: dict[str, Any] = {
        "rope_type": model.rope_scaling,
        "factor": model.rope_scaling_factor,
        "original_max_position_embeddings": model.original_max_position_embeddings,
    }
    return scaling | (LLAMA3_FACTORS if model.rope_scaling == "llama3" else {})


def _llama_like_fields(model: ModelConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "hidden_act": "silu",
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.head_size,
        "rms_norm_eps": model.norm_epsilon,
    }
    name = model.architecture
    if name in ("llama", "smollm3"):
        fields["mlp_bias"] = False
    if name != "llama":
        fields["sliding_window"] = None
    if name not in ("llama", "mistral"):
        fields["use_sliding_window"] = False
    if name == "smollm3":
        every = model.no_rope_freq or model.num_layers + 1
        fields["no_rope_layers"] = [int((layer + 1) % every != 0) for layer in range(model.num_layers)]
        fields["no_rope_layer_interval"] = every
    # Qwen2 has its biases without being asked, and releases differ in whether they know the setting there.
    return fields if name in ("qwen2", "mistral") else fields | {"attention_bias": False}


def _gpt_neox_fields(model: ModelConfig, rope: dict[str, Any]) -> dict[str, Any]:
    return {
        # megatron-core's fused bias-GELU is the tanh form; the erf form differs by up to 5e-4 in each activation.
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_dropout": 0.0,
        "layer_norm_eps": model.norm_epsilon,
        "attention_bias": True,
        # megatron-core has no parallel residual; true is the default of transformers.
        "use_parallel_residual": False,
        "partial_rotary_factor": model.rotary_percent,
        "rotary_pct": model.rotary_percent,
        "rotary_emb_base": model.rotary_base,
        "rope_parameters": {**rope, "partial_rotary_factor": model.rotary_percent},
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one of the folder's JSON files."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
