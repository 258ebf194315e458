"""Parameters under their global names: addressed initial weights, and shards of full tensors.

The global name of a parameter does not depend on the layout: layers are numbered over the whole model, and the copy of
tied embeddings on the last pipeline stage has the embedding's name.
"""

import hashlib
import math
import re
from collections.abc import Iterator

import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor
from torch.nn import Parameter

from megatron_prealign.platform.mesh import Mesh, is_split

EMBEDDING = "embedding.word_embeddings.weight"
_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.")
_RESIDUAL_OUTPUTS = ("linear_proj.weight", "linear_fc2.weight")


def named_global_parameters(model: GPTModel) -> Iterator[tuple[str, Parameter]]:
    """Yield this stage's parameters under their global names."""
    for name, parameter in model.named_parameters():
        match = _LAYER.match(name)
        if match:
            number = model.decoder.layers[int(match[1])].layer_number - 1
            name = f"decoder.layers.{number}.{name[match.end() :]}"
        elif name == "output_layer.weight" and model.share_embeddings_and_output_weights:
            name = EMBEDDING
        yield name, parameter


def hidden_matrices(model: GPTModel) -> list[Parameter]:
    """Return this stage's matrices that map hidden states to hidden states: all but embeddings and output layer."""
    return [
        parameter for name, parameter in named_global_parameters(model) if _LAYER.match(name) and parameter.dim() == 2
    ]


def _num_blocks(name: str, model: GPTModel) -> int:
    # A gated MLP's first layer is [gate; up] globally, and on each rank [gate; up] of its part.
    return 2 if model.config.gated_linear_unit and ".linear_fc1." in name else 1


def shard(full: Tensor, name: str, parameter: Parameter, model: GPTModel) -> Tensor:
    """Cut this tensor-parallel rank's part out of a full tensor."""
    if not is_split(parameter):
        return full
    tensor = Mesh.current().tensor
    dim = parameter.partition_dim  # type: ignore[attr-defined]
    blocks = full.chunk(_num_blocks(name, model), dim=dim)
    return torch.cat([block.chunk(tensor.size, dim=dim)[tensor.rank] for block in blocks], dim=dim)


def unshard(parts: list[Tensor], name: str, parameter: Parameter, model: GPTModel) -> Tensor:
    """Join the parts of all tensor-parallel ranks, in rank order; the inverse of `shard`."""
    if not is_split(parameter):
        return parts[0]
    dim = parameter.partition_dim  # type: ignore[attr-defined]
    blocks = zip(*(part.chunk(_num_blocks(name, model), dim=dim) for part in parts), strict=True)
    return torch.cat([torch.cat(block, dim=dim) for block in blocks], dim=dim)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _initial_value(name: str, shape: list[int], seed: int, std: float, num_layers: int) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    if name.endswith(_RESIDUAL_OUTPUTS):
        std /= math.sqrt(2 * num_layers)
    return torch.randn(shape, generator=_generator(seed, name)) * std


@torch.no_grad()
def initialize_parameters(model: GPTModel, seed: int) -> None:
    """Fill all weights with draws addressed by (seed, global name).

    Matrices are normal with `init_method_std`, divided by sqrt(2 * num_layers) if they write to the residual stream;
    norm weights are one and biases zero. Every layout starts with the same weights.
    """
    size = Mesh.current().tensor.size
    for name, parameter in named_global_parameters(model):
        shape = list(parameter.shape)
        if is_split(parameter):
            shape[parameter.partition_dim] *= size  # type: ignore[attr-defined]
        full = _initial_value(name, shape, seed, model.config.init_method_std, model.config.num_layers)
        parameter.copy_(shard(full, name, parameter, model))
