"""The model section that Megatron-LM's arguments describe, or the reasons why there is none.

Megatron-LM keeps its whole command line in a checkpoint. An argument that an older release did not know is missing
there, and means what it does by default.
"""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from megatron_prealign.config import Config, ModelConfig, find_problems
from megatron_prealign.config.model import ARCHITECTURE_TRAITS, ArchitectureName
from megatron_prealign.errors import CheckpointError

_REQUIRED = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "max_position_embeddings",
    "normalization",
    "position_embedding_type",
)
_NOTHING = (None, False, 0)
# What changes the network without changing the names or shapes of its weights: values that leave it as it is here, and
# what it is. Weights that are not supported are refused by their names.
_UNMODELLED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "rotary_interleaved": (_NOTHING, "rotary embeddings turn neighbouring dimensions, here those half a head apart"),
    "rotary_seq_len_interpolation_factor": ((*_NOTHING, 1), "rope scaling: positions are interpolated"),
    "rope_type": ((None, "rope"), "rope scaling: only plain rotary embeddings are supported"),
    "no_rope_freq": (_NOTHING, "layers without rotary embeddings"),
    "apply_layernorm_1p": (_NOTHING, "norm weights are stored less one"),
    "apply_residual_connection_post_layernorm": (_NOTHING, "residuals are taken after the norm, here before it"),
    "qk_l2_norm": (_NOTHING, "queries and keys are normalised without weights"),
    "attention_output_gate": (_NOTHING, "gated attention"),
    "softmax_type": ((None, "vanilla"), "another softmax in attention"),
    "window_size": (_NOTHING, "sliding-window attention: attention here covers the whole sequence"),
    "squared_relu": (_NOTHING, "squared ReLU: the MLP here is SwiGLU or GELU (tanh)"),
    "quick_geglu": (_NOTHING, "quick GEGLU: the MLP here is SwiGLU or GELU (tanh)"),
    "multi_latent_attention": (_NOTHING, "multi-latent attention"),
    "num_experts": (_NOTHING, "mixture of experts"),
    "mtp_num_layers": (_NOTHING, "multi-token prediction"),
    "hybrid_override_pattern": (_NOTHING, "layers other than transformer layers"),
    "heterogeneous_layers_config_path": (_NOTHING, "layers that differ from each other"),
}


def model_section(args: Mapping[str, Any], vocab_size: int, make_vocab_size_divisible_by: int) -> ModelConfig:
    """Return the model section of Megatron-LM's arguments.

    Args:
        args: arguments by name, as a checkpoint's `args` has them.
        vocab_size: of the tokenizer that it was trained with: Megatron-LM stores the padded size alone.
        make_vocab_size_divisible_by: multiple to which training pads the embedding rows.

    Raises:
        CheckpointError: settings have no counterpart here; all are listed with the reason.
    """
    problems = [f"no {name}: not the arguments of a GPT model" for name in _REQUIRED if args.get(name) is None]
    if problems:
        raise CheckpointError(problems)
    problems += _problems(args)
    architecture = _architecture(args, problems)
    if architecture is None or problems:
        raise CheckpointError(problems)
    model = _translate(args, architecture, vocab_size, make_vocab_size_divisible_by)
    problems = [problem for problem in find_problems(Config(model=model)) if problem.startswith("--model.")]
    if problems:
        raise CheckpointError(problems)
    return model


def _translate(args: Mapping[str, Any], architecture: ArchitectureName, vocab_size: int, multiple: int) -> ModelConfig:
    heads, hidden = args["num_attention_heads"], args["hidden_size"]
    groups = args.get("num_query_groups") if args.get("group_query_attention") else None
    head_size = args.get("kv_channels") or hidden // heads
    default = ModelConfig()
    return ModelConfig(
        architecture=architecture,
        num_layers=args["num_layers"],
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=None if groups == heads else groups,
        kv_channels=None if head_size * heads == hidden else head_size,
        ffn_hidden_size=args["ffn_hidden_size"],
        max_position_embeddings=args["max_position_embeddings"],
        vocab_size=vocab_size,
        make_vocab_size_divisible_by=multiple,
        untie_embeddings_and_output_weights=bool(args.get("untie_embeddings_and_output_weights")),
        rotary_base=float(args.get("rotary_base") or default.rotary_base),
        rotary_percent=float(args.get("rotary_percent") or default.rotary_percent),
        rope_scaling="llama3" if args.get("use_rope_scaling") else "none",
        rope_scaling_factor=float(args.get("rope_scaling_factor") or default.rope_scaling_factor),
        norm_epsilon=float(args.get("norm_epsilon") or default.norm_epsilon),
        init_method_std=float(args.get("init_method_std") or default.init_method_std),
    )


def _problems(args: Mapping[str, Any]) -> Iterator[str]:
    """Yield the features of the model that are not supported here."""
    positions = args["position_embedding_type"]
    if positions != "rope":
        yield f"position_embedding_type {positions!r}: only rotary embeddings (rope) are supported"
    for name, (harmless, what) in _UNMODELLED.items():
        value = args.get(name)
        if value not in harmless:
            yield f"{name} {value!r}: {what}"
    if not args.get("swiglu") and not (args.get("bias_gelu_fusion", True) or args.get("openai_gelu")):
        yield "bias_gelu_fusion false: GELU is the erf form, here the tanh form, which fused kernels compute"


def _architecture(args: Mapping[str, Any], problems: list[str]) -> ArchitectureName | None:
    """Return the architecture whose layers are made of the same parts."""
    has_bias = bool(args.get("add_bias_linear", True))
    found = {
        "normalization": args["normalization"],
        "has_gated_mlp": bool(args.get("swiglu")),
        "has_linear_bias": has_bias,
        "has_qkv_bias": has_bias or bool(args.get("add_qkv_bias")),
        "has_qk_norm": bool(args.get("qk_layernorm")),
    }
    names: tuple[ArchitectureName, ...] = get_args(ArchitectureName)
    for name in names:
        if all(getattr(ARCHITECTURE_TRAITS[name], part) == value for part, value in found.items()):
            return name
    parts = ", ".join(f"{part} {value}" for part, value in found.items())
    problems.append(f"no supported architecture has layers with these parts: {parts}; known: {', '.join(names)}")
    return None
