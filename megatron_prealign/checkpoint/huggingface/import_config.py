"""Derive the model section from a Hugging Face folder, or report why its model is not supported."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_prealign.checkpoint.huggingface.config import LLAMA3_FACTORS
from megatron_prealign.checkpoint.huggingface.mapping import ARCHITECTURES
from megatron_prealign.config import Config, ModelConfig, find_problems
from megatron_prealign.errors import CheckpointError

_GELU_TANH = ("gelu_pytorch_tanh", "gelu_new")
"""Names of the form of GELU that megatron-core computes."""
_NOT_MODELLED: Mapping[str, str] = dict.fromkeys(
    ("olmo2", "olmo3"),
    "its norms stand behind attention and MLP, and queries and keys are normalised over all heads together, which "
    "megatron-core's layers don't do",
)
"""Why architectures that users may expect are not supported."""


_SCALINGS: Mapping[str, dict[str, Any]] = {
    "llama3": {**LLAMA3_FACTORS, "original_max_position_embeddings": 8192},
    "yarn": {"beta_fast": 32, "beta_slow": 1, "truncate": True},
}
"""Kinds of rope scaling with the settings that megatron-core computes them with."""


def read_config_json(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's config.json.

    Raises:
        CheckpointError: there is none, or it is no JSON object.
    """
    path = folder / "config.json"
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: not a regular file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror}); name a Hugging Face folder") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


def model_section(folder: Path, make_vocab_size_divisible_by: int) -> ModelConfig:
    """Return the model section of a Hugging Face folder, vocab_size set to its embedding rows.

    Args:
        folder: with a config.json of any transformers release; settings it leaves out have transformers' defaults.
        make_vocab_size_divisible_by: multiple to which training pads the embedding rows.

    Raises:
        CheckpointError: the architecture is unknown, or settings have no counterpart; all are listed with the reason.
    """
    raw = read_config_json(folder)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = _NOT_MODELLED.get(str(model_type))
        reason = f" ({known})" if known else ""
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type {model_type!r} is not a supported architecture{reason}; "
            f"known: {', '.join(ARCHITECTURES)}"
        )
    # Takes seconds to import; its classes know each release's defaults and names.
    from transformers import AutoConfig

    try:
        found: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        # transformers raises many types for problems of config.json.
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / 'config.json'}: transformers can't read it: {reason}") from error
    problems = list(_problems(raw, found))
    model = None if problems else _translate(found, make_vocab_size_divisible_by)
    if model is not None:
        problems = [problem for problem in find_problems(Config(model=model)) if problem.startswith("--model.")]
    if model is None or problems:
        raise CheckpointError([f"{folder / 'config.json'}: {problem}" for problem in problems])
    return model


def _translate(found: Any, multiple: int) -> ModelConfig:
    is_neox = found.model_type == "gpt_neox"
    head_size = getattr(found, "head_dim", None) or found.hidden_size // found.num_attention_heads
    is_usual = head_size * found.num_attention_heads == found.hidden_size
    groups = getattr(found, "num_key_value_heads", None)
    rope = found.rope_parameters
    model = ModelConfig(
        architecture=found.model_type,
        num_layers=found.num_hidden_layers,
        hidden_size=found.hidden_size,
        num_attention_heads=found.num_attention_heads,
        num_query_groups=None if groups == found.num_attention_heads else groups,
        kv_channels=None if is_usual else head_size,
        ffn_hidden_size=found.intermediate_size,
        max_position_embeddings=found.max_position_embeddings,
        vocab_size=found.vocab_size,
        make_vocab_size_divisible_by=multiple,
        untie_embeddings_and_output_weights=not found.tie_word_embeddings,
        rotary_base=float(rope["rope_theta"]),
        norm_epsilon=found.layer_norm_eps if is_neox else found.rms_norm_eps,
        init_method_std=found.initializer_range,
    )
    if is_neox:
        return replace(model, rotary_percent=float(rope.get("partial_rotary_factor", 1.0)))
    if rope["rope_type"] != "default":
        model = replace(
            model,
            rope_scaling=rope["rope_type"],
            rope_scaling_factor=float(rope["factor"]),
            original_max_position_embeddings=int(rope["original_max_position_embeddings"]),
        )
    return replace(model, no_rope_freq=_no_rope_freq(found))


def _no_rope_freq(found: Any) -> int | None:
    """Return of how many layers the last has no rotary embeddings, None if all have them; 0 for another pattern."""
    rotated = list(getattr(found, "no_rope_layers", None) or ())
    if all(rotated):
        return None
    every = rotated.index(0) + 1
    return every if rotated == [int((layer + 1) % every != 0) for layer in range(len(rotated))] else 0


def _problems(raw: dict[str, Any], found: Any) -> Iterator[str]:
    """Yield features of the folder's model that are not supported here."""
    for check in (_rope_problems, _mask_problems, _layer_problems):
        yield from check(found)
    if raw.get("quantization_config"):
        yield "quantization_config: quantised weights can't be trained on; use the folder that they were made from"


def _rope_problems(found: Any) -> Iterator[str]:
    rope = found.rope_parameters or {}
    kind = rope.get("rope_type", "default")
    if not isinstance(rope.get("rope_theta"), (int, float)):
        yield f"rope_theta is {rope.get('rope_theta')}: give the base of the rotary embeddings, a number"
    if kind not in ("default", *_SCALINGS) or (kind != "default" and found.model_type == "gpt_neox"):
        yield (
            f"rope scaling of type {kind!r}: only plain rotary embeddings are supported, and {' and '.join(_SCALINGS)} "
            "except in gpt_neox; without scaling, the model would compute something else"
        )
    elif kind != "default":
        known = _SCALINGS[kind]
        if kind == "yarn":
            known = known | {"attention_factor": 0.1 * math.log(rope["factor"]) + 1}
            if rope.get("mscale") and rope.get("mscale_all_dim"):
                yield "rope scaling of type 'yarn' with mscale and mscale_all_dim: here it is computed without them"
        for name, value in known.items():
            given = rope.get(name)
            if given is not None and not math.isclose(given, value):
                yield f"rope scaling of type {kind!r} with {name} {given}: here it is computed with {value:g}"
    if _no_rope_freq(found) == 0:
        yield f"no_rope_layers {found.no_rope_layers}: only every n-th layer can be without rotary embeddings here"
    part = rope.get("partial_rotary_factor", 1.0)
    if found.model_type != "gpt_neox" and part != 1.0:
        yield f"partial_rotary_factor {part}: only gpt_neox rotates a part of each head here"


def _mask_problems(found: Any) -> Iterator[str]:
    kinds = sorted(set(getattr(found, "layer_types", None) or ()) - {"full_attention"})
    # Mistral has no switch.
    window = found.sliding_window if found.model_type == "mistral" else None
    if getattr(found, "use_sliding_window", False) or kinds or window is not None:
        named = ", ".join(kinds) or ("use_sliding_window" if window is None else f"sliding_window {window}")
        yield f"sliding-window attention ({named}): attention here covers the whole sequence"


def _layer_problems(found: Any) -> Iterator[str]:
    if found.model_type == "gpt_neox":
        if found.use_parallel_residual:
            yield (
                "use_parallel_residual true (the default): megatron-core's layers are sequential, so Pythia and other "
                "models with parallel residuals can't be continued here"
            )
        if found.hidden_act not in _GELU_TANH:
            yield f"hidden_act {found.hidden_act!r}: GELU here is the tanh form ({_GELU_TANH[0]})"
        if not getattr(found, "attention_bias", True):
            yield "attention_bias false: GPT-NeoX has biases in every linear layer here"
        return
    if found.hidden_act != "silu":
        yield f"hidden_act {found.hidden_act!r}: the MLP here is SwiGLU (silu)"
    if found.model_type != "qwen2" and getattr(found, "attention_bias", False):
        yield f"attention_bias true: {found.model_type} has no biases here; only qwen2 has them, on q, k and v"
    if getattr(found, "mlp_bias", False):
        yield "mlp_bias true: there are no biases in the MLP here"
