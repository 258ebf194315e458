"""What a weight is called: in the local layer spec, in Transformer Engine's, and in a torch_dist checkpoint."""

import re

# What Transformer Engine's fused layers, and checkpoints of either layer spec, call the norm in front of them.
_FUSED_NORMS = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
}
_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.")
_ALL_LAYERS = "decoder.layers."


def local_name(name: str) -> str:
    """Return the name that the local layer spec gives a weight of the Transformer Engine layer spec."""
    for fused, local in _FUSED_NORMS.items():
        name = name.replace(fused, local)
    return name


def checkpoint_key(name: str) -> tuple[str, int | None]:
    """Return the key of a weight in a checkpoint, and its index there along the first axis: that of the layers.

    Args:
        name: of the local layer spec, layers counted over the whole model.

    Returns:
        The key; and the layer's number, none for a weight outside the layers, which has no such axis.
    """
    match = _LAYER.match(name)
    if match is None:
        return name, None
    inside = name[match.end() :]
    for fused, local in _FUSED_NORMS.items():
        if inside.startswith(local):
            inside = fused + inside.removeprefix(local)
    return _ALL_LAYERS + inside, int(match[1])


def is_stacked(key: str) -> bool:
    """Tell whether the first axis of what lies under a key of a checkpoint is that of the layers."""
    return key.startswith(_ALL_LAYERS) and _LAYER.match(key) is None


def names_under(key: str, num_layers: int) -> list[str]:
    """Return the names, in the local layer spec, of the weights under a key; the inverse of `checkpoint_key`.

    Args:
        key: megatron-core keeps all layers under one key, or, where they differ or its user wants so, each under its
            own.
        num_layers: layers under the key, where it is stacked.
    """
    if not is_stacked(key):
        return [local_name(key)]
    inside = local_name(key.removeprefix(_ALL_LAYERS))
    return [f"{_ALL_LAYERS}{layer}.{inside}" for layer in range(num_layers)]
