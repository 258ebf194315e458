"""Checks that hold at every step of a healthy run."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from megatron.core.utils import get_model_config, unwrap_model

from megatron_prealign.errors import TrainingError
from megatron_prealign.model.parameters import EMBEDDING, named_global_parameters
from megatron_prealign.platform import Mesh


class InvariantError(TrainingError):
    """Ranks that must agree do not: a defect or broken hardware, never the input."""


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _digest(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    """Return a digest of the bits of parameters: int64 scalar on their device, which any single difference changes.

    It is a sum weighted by position. Rows have odd weights and columns even ones, so that modulo 2^64 no single
    difference is multiplied by zero.
    """
    device = parameters[0].device
    digest = torch.zeros((), dtype=torch.int64, device=device)
    for parameter in parameters:
        bits = parameter.detach().contiguous().view(_BITS[parameter.itemsize])
        bits = bits.reshape(len(bits), -1)
        rows, columns = bits.sum(1, dtype=torch.int64), bits.sum(0, dtype=torch.int64)
        odd, even = (2 * torch.arange(len(sums), device=device) for sums in (rows, columns))
        digest = 3 * digest + (rows * (odd + 1)).sum() + (columns * even).sum()
    return digest


def _disagreement(parameters: list[torch.nn.Parameter], group: torch.distributed.ProcessGroup) -> torch.Tensor:
    """Return whether any number differs between the group's ranks: bool scalar on the device; collective."""
    digest = _digest(parameters)
    # The maximum of the complement is the complement of the minimum.
    extremes = torch.stack([digest, ~digest])
    torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX, group=group)
    return extremes[0] != ~extremes[1]


def check_batches(microbatches: Sequence[Any]) -> None:
    """Check that data-parallel ranks have different samples, and ranks that share a model the same ones; collective.

    Batches of words are not checked: they are cut from one list.

    Raises:
        InvariantError: Says which.
    """
    if not isinstance(microbatches[0], dict):
        return
    mesh = Mesh.current()
    samples = torch.cat([batch["sample"] for batch in microbatches])
    everyone = torch.cat(_gather(samples, mesh.data.group)).sort().values
    copies = torch.stack(_gather(samples, mesh.model.group))
    repeats, differs = torch.stack([(everyone.diff() == 0).any(), (copies != samples).any()]).tolist()
    problems = []
    if repeats:
        problems.append("data-parallel ranks were given the same samples")
    if differs:
        problems.append("ranks that share a model were given different samples")
    if problems:
        raise InvariantError(problems)


def check_gradients(chunks: list[torch.nn.Module]) -> None:
    """Check that every parameter of this rank has a finite gradient that is not all zero.

    Under tensor parallelism the embedding is exempt: perhaps no token of this rank's part of the vocabulary occurs.

    Raises:
        InvariantError: Names the parameters without one.
    """
    named = [item for chunk in unwrap_model(chunks) for item in named_global_parameters(chunk)]
    # Both extremes are NaN if any number is. Read back once, for all.
    extremes = torch.stack([torch.stack(torch.aminmax(cast(Any, parameter).main_grad)) for _, parameter in named])
    values = dict(zip((name for name, _ in named), extremes.tolist(), strict=True))
    spared = EMBEDDING if Mesh.current().tensor.size > 1 else None
    problems = [f"{name} has no gradient" for name, pair in values.items() if name != spared and not any(pair)]
    # fp16 overflows by design at times: the optimizer skips such a step.
    if not get_model_config(chunks[0]).fp16:
        infinite = [name for name, pair in values.items() if not all(map(math.isfinite, pair))]
        problems += [f"the gradient of {name} is not finite" for name in infinite]
    if problems:
        raise InvariantError(problems)


def _gather(values: torch.Tensor, group: torch.distributed.ProcessGroup) -> list[torch.Tensor]:
    gathered = [torch.empty_like(values) for _ in range(group.size())]
    torch.distributed.all_gather(gathered, values, group=group)
    return gathered


_DIFFERENCES = {
    "replicas": "parameters differ between data-parallel ranks",
    "tensor": "parameters that tensor parallelism does not split differ between its ranks",
    "embedding": "tied embeddings differ between the first and the last pipeline stage",
}
"""By axis of the mesh, the problem if copies on it differ."""


def check_replicas(chunks: list[torch.nn.Module]) -> None:
    """Check that the copies of each parameter are bit-equal; collective.

    Raises:
        InvariantError: Names the axes on which they differ.
    """
    mesh = Mesh.current()
    copies: dict[str, list[torch.nn.Parameter]] = {axis: [] for axis in _DIFFERENCES}
    groups: dict[str, torch.distributed.ProcessGroup] = {}
    for parameter in (parameter for chunk in chunks for parameter in chunk.parameters()):
        for name, axis in mesh.copies(parameter).items():
            if axis.size > 1:
                copies[name].append(parameter)
                groups[name] = axis.group
    found = {name: parameters for name, parameters in copies.items() if parameters}
    if not found:
        return
    # Read back once, for all.
    differ = torch.stack([_disagreement(parameters, groups[name]) for name, parameters in found.items()]).tolist()
    problems = [_DIFFERENCES[name] for name, differs in zip(found, differ, strict=True) if differs]
    if problems:
        raise InvariantError(problems)
