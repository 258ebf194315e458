"""The mesh of four ranks: its axes, which copies of a parameter there are and which one counts, pieces of sequences."""

import inspect
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.layers import param_is_not_tensor_parallel_duplicate
from megatron.core.transformer.module import param_is_not_shared
from megatron.core.utils import get_batch_on_this_cp_rank
from torch.nn import Parameter

from megatron_prealign.config import ParallelConfig
from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform
from megatron_prealign.testing import run_distributed

LAYOUTS = (
    ParallelConfig(tensor_model_parallel_size=2, context_parallel_size=2),
    ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2),
    ParallelConfig(pipeline_model_parallel_size=2),
)


def _parameter(**marks: bool) -> Parameter:
    parameter = Parameter(torch.zeros(2))
    for name, value in marks.items():
        setattr(parameter, name, value)
    return parameter


PARAMETERS = {
    "split": _parameter(tensor_model_parallel=True),
    "whole": _parameter(tensor_model_parallel=False),
    "norm": _parameter(),
    "tied": _parameter(tensor_model_parallel=True, shared_embedding=True),
    "tied_copy": _parameter(tensor_model_parallel=True, shared_embedding=True, shared=True),
}


def their_pieces(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what megatron-core cuts out of `tokens`; from 0.18 on it asks for more, and its default is all ranks."""
    new = {"is_hybrid_cp": False} if "is_hybrid_cp" in inspect.signature(get_batch_on_this_cp_rank).parameters else {}
    group = parallel_state.get_context_parallel_group()
    pieces: torch.Tensor = get_batch_on_this_cp_rank(dict(batch), cp_group=group, **new)["tokens"]
    return pieces


def look() -> list[dict[str, Any]]:
    """Return what this rank's mesh says in each layout."""
    initialize_distributed(select_platform("cpu"))
    found = []
    for parallel in LAYOUTS:
        mesh = initialize_model_parallel(parallel, seed=1)
        batch = {"tokens": torch.arange(48).reshape(2, 8, 3)}
        axes = ("tensor", "pipeline", "data", "context", "replicas", "model")
        found.append(
            {
                **{axis: (getattr(mesh, axis).rank, getattr(mesh, axis).size) for axis in axes},
                "ends": (mesh.holds_start(0), mesh.holds_end(0)),
                "copies": {name: [*mesh.copies(parameter)] for name, parameter in PARAMETERS.items()},
                "counts": [mesh.counts(parameter) for parameter in PARAMETERS.values()],
                "theirs": [
                    param_is_not_shared(parameter) and param_is_not_tensor_parallel_duplicate(parameter)
                    for parameter in PARAMETERS.values()
                ],
                "pieces": mesh.own_pieces(batch)["tokens"],
                "their_pieces": their_pieces(batch),
            }
        )
        parallel_state.destroy_model_parallel()
    return found


def test_the_mesh_says_what_megatron_core_does() -> None:
    ranks = run_distributed(look, 4)
    for found in (layout for rank in ranks for layout in rank):
        assert found["counts"] == found["theirs"]
        assert torch.equal(found["pieces"], found["their_pieces"])
    split_sequences, stages, replicas = zip(*ranks, strict=True)
    assert [(found["tensor"], found["context"]) for found in split_sequences] == [
        ((tensor, 2), (context, 2)) for context in (0, 1) for tensor in (0, 1)
    ]
    assert all(found["data"] == (0, 1) and found["replicas"] == found["context"] for found in split_sequences)
    assert [(found["tensor"], found["pipeline"]) for found in stages] == [
        ((tensor, 2), (pipeline, 2)) for pipeline in (0, 1) for tensor in (0, 1)
    ]
    assert [found["model"] for found in stages] == [(rank, 4) for rank in range(4)]
    assert [found["ends"] for found in replicas] == [(True, False), (True, False), (False, True), (False, True)]
    assert replicas[0]["copies"] == {
        "split": ["replicas"],
        "whole": ["replicas", "tensor"],
        "norm": ["replicas", "tensor"],
        "tied": ["replicas", "embedding"],
        "tied_copy": ["replicas", "embedding"],
    }
