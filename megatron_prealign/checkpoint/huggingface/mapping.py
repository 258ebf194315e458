"""Names and layouts of weights in megatron-core and in Hugging Face folders: one table per architecture.

Shape legend: H hidden_size, N num_attention_heads, G query groups, D head size, A = N D, F ffn_hidden_size,
V vocab_size, R rows of the padded vocabulary. A Megatron name is the one of the local layer spec at TP1 PP1.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_prealign.checkpoint.huggingface.transforms import COPY, GATED_MLP, QKV, VOCABULARY, Sizes, Transform
from megatron_prealign.checkpoint.tensors import local_name
from megatron_prealign.config import ModelConfig
from megatron_prealign.errors import CheckpointError


@dataclass(frozen=True)
class Row:
    """One weight: its Megatron name, its axes as names of `Sizes` fields, its Hugging Face names and the transform.

    `{layer}` in a name is the layer's number, counted from 0 over the whole model.
    """

    megatron: str
    axes: tuple[str, ...]
    huggingface: tuple[str, ...]
    transform: Transform = COPY

    def at_layer(self, layer: int) -> "Row":
        """Return the row with the layer's number filled in."""
        names = tuple(name.format(layer=layer) for name in self.huggingface)
        return Row(self.megatron.format(layer=layer), self.axes, names, self.transform)

    def split(self, tensor: Tensor, sizes: Sizes) -> dict[str, Tensor]:
        """Return the contiguous Hugging Face tensors of the Megatron tensor, by name."""
        parts = self.transform.split(tensor, sizes)
        return {name: part.contiguous() for name, part in zip(self.huggingface, parts, strict=True)}

    def merge(self, tensors: Mapping[str, Tensor], sizes: Sizes) -> Tensor:
        """Return the contiguous Megatron tensor of the row's Hugging Face tensors."""
        return self.transform.merge([tensors[name] for name in self.huggingface], sizes).contiguous()


@dataclass(frozen=True)
class Architecture:
    """One Hugging Face architecture: class name and `model_type` of config.json, and the table of its weights."""

    class_name: str
    model_type: str
    rows: tuple[Row, ...]


_MODEL_WIDE = ("embedding.", "decoder.final_layernorm.", "output_layer.")
_OUTPUT_LAYER = "output_layer.weight"


def _layer(megatron: str, axes: tuple[str, ...], *names: str, prefix: str, transform: Transform = COPY) -> Row:
    """Build the row of a weight that each layer has, from its names inside a layer."""
    full_names = tuple(f"{prefix}.layers.{{layer}}.{name}" for name in names)
    return Row(f"decoder.layers.{{layer}}.{megatron}", axes, full_names, transform)


def _llama_like(class_name: str, model_type: str, *more: Row) -> Architecture:
    """Return the table of Llama and relatives (RMSNorm, SwiGLU, any number of query groups) with additional rows."""
    rows = (
        Row("embedding.word_embeddings.weight", ("padded_vocab", "hidden"), ("model.embed_tokens.weight",), VOCABULARY),
        _llama_layer("input_layernorm.weight", ("hidden",), "input_layernorm.weight"),
        _llama_layer("self_attention.linear_qkv.weight", ("qkv", "hidden"), *_projections("weight"), transform=QKV),
        _llama_layer("self_attention.linear_proj.weight", ("hidden", "attention"), "self_attn.o_proj.weight"),
        _llama_layer("pre_mlp_layernorm.weight", ("hidden",), "post_attention_layernorm.weight"),
        _llama_layer("mlp.linear_fc1.weight", ("gate_and_up", "hidden"), *_GATE_AND_UP, transform=GATED_MLP),
        _llama_layer("mlp.linear_fc2.weight", ("hidden", "ffn"), "mlp.down_proj.weight"),
        Row("decoder.final_layernorm.weight", ("hidden",), ("model.norm.weight",)),
        Row(_OUTPUT_LAYER, ("padded_vocab", "hidden"), ("lm_head.weight",), VOCABULARY),
    )
    return Architecture(class_name, model_type, (*rows, *more))


def _llama_layer(megatron: str, axes: tuple[str, ...], *names: str, transform: Transform = COPY) -> Row:
    return _layer(megatron, axes, *names, prefix="model", transform=transform)


def _projections(kind: str) -> tuple[str, ...]:
    return tuple(f"self_attn.{part}_proj.{kind}" for part in ("q", "k", "v"))


_GATE_AND_UP = ("mlp.gate_proj.weight", "mlp.up_proj.weight")


def _gpt_neox() -> Architecture:
    """Return the table of GPT-NeoX: LayerNorm, GELU, biases, multi-head attention.

    Its query_key_value holds [q, k, v] head by head, which is Megatron's layout when each head has its own group. The
    output layer is `embed_out` in the files of every transformers release, though 5.x calls the module `lm_head`.
    """
    rows = [
        Row("embedding.word_embeddings.weight", ("padded_vocab", "hidden"), ("gpt_neox.embed_in.weight",), VOCABULARY),
        Row(_OUTPUT_LAYER, ("padded_vocab", "hidden"), ("embed_out.weight",), VOCABULARY),
    ]
    layer = functools.partial(_layer, prefix="gpt_neox")
    linears = (
        ("self_attention.linear_qkv", "qkv", "hidden", "attention.query_key_value"),
        ("self_attention.linear_proj", "hidden", "attention", "attention.dense"),
        ("mlp.linear_fc1", "ffn", "hidden", "mlp.dense_h_to_4h"),
        ("mlp.linear_fc2", "hidden", "ffn", "mlp.dense_4h_to_h"),
    )
    for megatron, out_axis, in_axis, name in linears:
        rows.append(layer(f"{megatron}.weight", (out_axis, in_axis), f"{name}.weight"))
        rows.append(layer(f"{megatron}.bias", (out_axis,), f"{name}.bias"))
    for kind in ("weight", "bias"):
        rows.append(layer(f"input_layernorm.{kind}", ("hidden",), f"input_layernorm.{kind}"))
        rows.append(layer(f"pre_mlp_layernorm.{kind}", ("hidden",), f"post_attention_layernorm.{kind}"))
        rows.append(Row(f"decoder.final_layernorm.{kind}", ("hidden",), (f"gpt_neox.final_layer_norm.{kind}",)))
    return Architecture("GPTNeoXForCausalLM", "gpt_neox", tuple(rows))


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _llama_like("LlamaForCausalLM", "llama"),
    "mistral": _llama_like("MistralForCausalLM", "mistral"),
    "qwen2": _llama_like(
        "Qwen2ForCausalLM",
        "qwen2",
        _llama_layer("self_attention.linear_qkv.bias", ("qkv",), *_projections("bias"), transform=QKV),
    ),
    "qwen3": _llama_like(
        "Qwen3ForCausalLM",
        "qwen3",
        _llama_layer("self_attention.q_layernorm.weight", ("head",), "self_attn.q_norm.weight"),
        _llama_layer("self_attention.k_layernorm.weight", ("head",), "self_attn.k_norm.weight"),
    ),
    "smollm3": _llama_like("SmolLM3ForCausalLM", "smollm3"),
    "gpt_neox": _gpt_neox(),
}


def architecture_of(model: ModelConfig) -> Architecture:
    """Return the architecture that a model is written as.

    Raises:
        CheckpointError: settings of the model have no counterpart there; all are listed.
    """
    if model.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(
            f"model.architecture {model.architecture!r} has no Hugging Face equivalent; choose from {known}"
        )
    problems, traits = [], model.traits
    if not traits.shares_keys and model.num_key_value_heads != model.num_attention_heads:
        problems.append(
            f"model.num_query_groups is {model.num_query_groups}, but {traits.title} in Hugging Face has one key and "
            f"value per attention head ({model.num_attention_heads}): train with model.architecture llama to use "
            "grouped-query attention"
        )
    if not traits.rotates_part and model.rotary_percent != 1.0:
        problems.append(
            f"model.rotary_percent is {model.rotary_percent}, but {traits.title} in Hugging Face rotates whole heads: "
            "only model.architecture gpt_neox can rotate a part of each"
        )
    if not traits.sets_head_size and model.head_size * model.num_attention_heads != model.hidden_size:
        problems.append(
            f"model.kv_channels is {model.kv_channels}, but {traits.title}'s heads in Hugging Face are hidden_size / "
            "num_attention_heads wide: only model.architecture llama and qwen3 can have others"
        )
    if model.vocab_size is None:
        problems.append("model.vocab_size is not set; take it from the checkpoint's config")
    if problems:
        raise CheckpointError(problems)
    return ARCHITECTURES[model.architecture]


def weight_rows(model: ModelConfig) -> list[Row]:
    """Return the rows of all weights of a model, layers filled in; without the output layer if embeddings are tied."""
    rows: list[Row] = []
    for row in architecture_of(model).rows:
        if row.megatron == _OUTPUT_LAYER and not model.untie_embeddings_and_output_weights:
            continue
        layers = [0] if row.megatron.startswith(_MODEL_WIDE) else range(model.num_layers)
        rows.extend(row.at_layer(layer) for layer in layers)
    return rows


def to_huggingface(state: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Convert Megatron weights of the whole model (TP1 PP1) to contiguous Hugging Face tensors of the same dtype.

    Args:
        state: weights by Megatron name, of the local or the Transformer Engine layer spec; `_extra_state` is ignored.
        model: the model section of the checkpoint's config, vocab_size set.

    Raises:
        CheckpointError: weights are unknown, missing or of another shape, or a setting has no counterpart; all are
            listed.
    """
    found = {local_name(name): tensor for name, tensor in state.items() if not name.endswith("_extra_state")}
    check_megatron({name: tuple(tensor.shape) for name, tensor in found.items()}, model)
    sizes = Sizes.of(model)
    converted: dict[str, Tensor] = {}
    for row in weight_rows(model):
        converted.update(row.split(found[row.megatron], sizes))
    return converted


def megatron_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every Megatron weight of the whole model by its name in the local layer spec."""
    rows, sizes = weight_rows(model), Sizes.of(model)
    return {row.megatron: sizes.shape(row.axes) for row in rows}


def huggingface_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every Hugging Face weight of a model by its name."""
    rows, sizes = weight_rows(model), Sizes.of(model)
    shapes: dict[str, tuple[int, ...]] = {}
    for row in rows:
        parts = row.split(torch.empty(sizes.shape(row.axes), device="meta"), sizes)
        shapes.update((name, tuple(part.shape)) for name, part in parts.items())
    return shapes


def check_megatron(found: Mapping[str, tuple[int, ...]], model: ModelConfig) -> None:
    """Check that Megatron weights, given by name and shape, are exactly those of the table.

    Raises:
        CheckpointError: weights are missing, unknown or of another shape; all are listed.
    """
    _check_weights(found, megatron_shapes(model), "Megatron")


def check_huggingface(found: Mapping[str, tuple[int, ...]], model: ModelConfig) -> None:
    """Check Hugging Face weights as `check_megatron` does."""
    _check_weights(found, huggingface_shapes(model), "Hugging Face")


def _check_weights(found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], kind: str) -> None:
    problems = [f"{kind} weight {name} is missing" for name in sorted(shapes.keys() - found.keys())]
    problems += [
        f"{kind} weight {name} is unknown to this architecture" for name in sorted(found.keys() - shapes.keys())
    ]
    problems += [
        f"{kind} weight {name} has shape {list(found[name])}, but the model section says {list(shape)}"
        for name, shape in shapes.items()
        if name in found and found[name] != shape
    ]
    if problems:
        raise CheckpointError(problems)
