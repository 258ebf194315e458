"""Names of weights in the local layer spec, in Transformer Engine's, and in torch_dist checkpoints."""

import re

# Name of the norm before a layer: in fused layers and in all checkpoints -> in the local layer spec.
_FUSED_NORMS = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
}
_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.")
_ALL_LAYERS = "decoder.layers."


def local_name(name: str) -> str:
    """Convert a weight's name from the Transformer Engine layer spec to the local one."""
    for fused, local in _FUSED_NORMS.items():
        name = name.replace(fused, local)
    return name


def checkpoint_key(name: str) -> tuple[str, int | None]:
    """Return a weight's key in a checkpoint, and its index along the key's first axis, the layers.

    Args:
        name: name in the local layer spec, layers numbered over the whole model.

    Returns:
        The key; and the layer's number, or None for a weight outside the layers, which has no such axis.
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
    """Return whether the tensor of a checkpoint's key has the layers as its first axis."""
    return key.startswith(_ALL_LAYERS) and _LAYER.match(key) is None


def names_under(key: str, num_layers: int) -> list[str]:
    """Return the names, in the local layer spec, of the weights under a key; the inverse of `checkpoint_key`.

    Args:
        key: megatron-core stores all layers under one key, or, if they differ or on request, each under its own.
        num_layers: number of layers under a stacked key.
    """
    if not is_stacked(key):
        return [local_name(key)]
    inside = local_name(key.removeprefix(_ALL_LAYERS))
    return [f"{_ALL_LAYERS}{layer}.{inside}" for layer in range(num_layers)]
