"""The mesh of ranks: this rank's place on each axis, which parameters are copies, and which rank counts them.

Code outside platform/ asks the mesh, never megatron-core's parallel state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from megatron.core import parallel_state
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import Parameter


@dataclass(frozen=True)
class Axis:
    """The ranks on a line of the mesh that includes this rank, in order."""

    group: ProcessGroup

    @property
    def rank(self) -> int:
        """Return this rank's place on the axis."""
        return self.group.rank()

    @property
    def size(self) -> int:
        """Return the number of ranks on the axis."""
        return self.group.size()


@dataclass(frozen=True)
class Mesh:
    """All ranks of a run by axis, as this rank sees them."""

    rank: int
    """Among all ranks; rank 0 writes what exists once: the run's records and the common part of a checkpoint."""

    world_size: int

    tensor: Axis
    """Each rank has a part of the split parameters, and a copy of the others."""

    pipeline: Axis
    """Each rank has other layers."""

    virtual_pipeline_size: int | None
    """Model chunks of each pipeline stage; None if stages are not interleaved."""

    data: Axis
    """Each rank has other samples."""

    context: Axis
    """Each rank has other pieces of the same sequences."""

    replicas: Axis
    """`data` and `context` together: each rank has a copy of all parameters."""

    model: Axis
    """`tensor` and `pipeline` together: the ranks hold the whole model."""

    embedding: Axis | None
    """The first and the last pipeline stage, which both hold tied embeddings; None on the stages between."""

    @classmethod
    def current(cls) -> "Mesh":
        """Return the mesh that `initialize_model_parallel` made."""
        in_embedding = parallel_state.is_rank_in_embedding_group()
        return cls(
            rank=torch.distributed.get_rank(),
            world_size=torch.distributed.get_world_size(),
            tensor=Axis(parallel_state.get_tensor_model_parallel_group()),
            pipeline=Axis(parallel_state.get_pipeline_model_parallel_group()),
            virtual_pipeline_size=parallel_state.get_virtual_pipeline_model_parallel_world_size(),
            data=Axis(parallel_state.get_data_parallel_group()),
            context=Axis(parallel_state.get_context_parallel_group()),
            replicas=Axis(parallel_state.get_data_parallel_group(with_context_parallel=True)),
            model=Axis(parallel_state.get_model_parallel_group()),
            embedding=Axis(parallel_state.get_embedding_group()) if in_embedding else None,
        )

    def holds_start(self, chunk: int) -> bool:
        """Return whether this rank's model chunk begins the model, with the embedding."""
        return self.pipeline.rank == 0 and chunk == 0

    def holds_end(self, chunk: int) -> bool:
        """Return whether this rank's model chunk ends the model, with the output layer."""
        return self.pipeline.rank == self.pipeline.size - 1 and chunk == (self.virtual_pipeline_size or 1) - 1

    def copies(self, parameter: Parameter) -> dict[str, Axis]:
        """Return the axes, by name, on which every rank has a copy of the parameter."""
        axes = {"replicas": self.replicas}
        if not is_split(parameter):
            axes["tensor"] = self.tensor
        if self.embedding is not None and getattr(parameter, "shared_embedding", False):
            axes["embedding"] = self.embedding
        return axes

    def counts(self, parameter: Parameter) -> bool:
        """Return whether this rank adds the parameter to a sum over `model` that has each parameter once."""
        is_second_copy = getattr(parameter, "shared", False)  # tied embeddings on the last pipeline stage
        return not is_second_copy and (is_split(parameter) or self.tensor.rank == 0)

    def own_pieces(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors [B, S, ...] with the two pieces [B, S / C, ...] of every sequence that this rank works on.

        Of the 2 C pieces of a sequence, rank r of the C context-parallel ranks has number r and number 2 C - 1 - r, so
        that causal attention costs each the same.
        """
        if self.context.size == 1:
            return dict(batch)
        pieces = {key: value.chunk(2 * self.context.size, dim=1) for key, value in batch.items()}
        rank = self.context.rank
        return {key: torch.cat([parts[rank], parts[-1 - rank]], dim=1) for key, parts in pieces.items()}


def is_split(parameter: Parameter) -> bool:
    """Return whether each tensor-parallel rank has a part of the parameter, not a copy."""
    return bool(getattr(parameter, "tensor_model_parallel", False))


def gradient_buffers(chunks: Sequence[torch.nn.Module]) -> list[Tensor]:
    """Return all flat gradient buffers of model chunks wrapped in megatron-core's DistributedDataParallel."""
    return [
        buffer.grad_data
        for chunk in cast(Sequence[Any], chunks)
        for buffer in [*chunk.buffers, *chunk.expert_parallel_buffers]
    ]
