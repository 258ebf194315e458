"""Which boxes of a checkpoint's tensors hold the distributed optimizer's state of this rank.

On disk it is megatron-core's `fully_reshardable` format: of each parameter the fp32 main parameter and both moments,
in the parameter's global shape. A rank owns flat ranges of parameters. Each range is cut into boxes, so that every
rank writes and reads what it owns where it lies, and torch.distributed.checkpoint finds it again in any other cut.

megatron-core 0.16.1 to 0.19.2 instead gathers gradient buckets on one rank, 12 bytes a parameter, strips the padding at
the end of each bucket, and then cuts parameters out at offsets that still count it: where a bucket is padded, all
parameters of the buckets after it get the numbers of their neighbours (Megatron-LM PR 5077).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from megatron_prealign.platform.megatron.optimizer import distributed_parts

PREFIX = "optimizer.state"
MAIN_PARAMETER = "param"


@dataclass(frozen=True)
class Box:
    """A box of a tensor in a checkpoint whose numbers lie in one piece in this rank's memory."""

    key: str
    """Of the tensor in the checkpoint."""

    global_shape: tuple[int, ...]
    """Of the whole tensor."""

    offsets: tuple[int, ...]
    """Where the box begins in it."""

    sizes: tuple[int, ...]
    """Of the box."""

    values: Tensor
    """The optimizer's own memory, of the box's sizes."""

    model_weight: Tensor | None
    """Where `values` are a main parameter: the model's parameter, of the same sizes."""

    is_written: bool
    """Whether this rank writes it: it is not a copy of another model-parallel rank's."""


def optimizer_boxes(optimizer: MegatronOptimizer | None, model_state: dict[str, Any]) -> list[Box]:
    """Return the boxes of the main parameters and moments that this rank's distributed optimizer owns.

    Args:
        optimizer: with allocated moments.
        model_state: sharded state dict of the model whose parameters it updates.
    """
    values = nested_values(model_state)
    sharded = {id(value.data): value for value in values if isinstance(value, ShardedTensor | ShardedTensorFactory)}
    boxes: list[Box] = []
    for part in distributed_parts(optimizer):
        for parameter in part.model_param_gbuf_map:
            owned = part._get_model_param_range_map(parameter)["param"]
            weight = parameter.detach().view(-1)[owned.start : owned.end]
            for name, state in part._get_main_param_and_optimizer_states(parameter).items():
                assert state.numel() == owned.end - owned.start, (name, state.shape, owned)
                own_weight = weight if name == MAIN_PARAMETER else None
                boxes += _boxes_of_range(name, sharded[id(parameter)], owned.start, state.detach(), own_weight)
    return boxes


def _boxes_of_range(
    name: str, sharded: ShardedTensor | ShardedTensorFactory, start: int, state: Tensor, weight: Tensor | None
) -> Iterator[Box]:
    """Yield the boxes of a flat range of a parameter that begins at `start` and has the numbers `state`."""
    stop, covered = start + state.numel(), 0
    for block in _blocks(sharded):
        # Blocks are cut from a tensor without content: its offsets tell where each lies in the parameter.
        begin = block.data.storage_offset()
        assert block.data.is_contiguous(), block.key
        low, high = max(start, begin), min(stop, begin + block.data.numel())
        position = low - start
        for offsets, sizes in cut_into_boxes(block.local_shape, low - begin, high - begin):
            place = slice(position, position + math.prod(sizes))
            position, covered = place.stop, covered + math.prod(sizes)
            leading = block.global_offset[: block.prepend_axis_num]
            inside = block.global_offset[block.prepend_axis_num :]
            box_sizes = (1,) * len(leading) + sizes
            yield Box(
                key=f"{PREFIX}.{name}.{block.key}",
                global_shape=block.global_shape,
                offsets=(*leading, *(first + offset for first, offset in zip(inside, offsets, strict=True))),
                sizes=box_sizes,
                values=state[place].view(box_sizes),
                model_weight=None if weight is None else weight[place].view(box_sizes),
                is_written=not any(block.replica_id[:-1]),  # the last counts data-parallel ranks, who share the state
            )
    assert covered == state.numel(), (name, sharded.key, covered, state.numel())


def _blocks(sharded: ShardedTensor | ShardedTensorFactory) -> list[ShardedTensor]:
    """Return the parts in which a parameter is stored, each over a view of a tensor without content."""
    assert sharded.data is not None
    empty = torch.empty(sharded.data.shape, dtype=sharded.data.dtype, device="meta")
    if isinstance(sharded, ShardedTensorFactory):
        # A gated MLP's first layer is [gate; up] on each rank, and globally too.
        built = sharded.build_fn(sharded.key, empty, sharded.replica_id, sharded.flattened_range)
        return list(nested_values(built))
    fields = ("key", "dtype", "local_shape", "global_shape", "global_offset", "axis_fragmentations")
    kept = {field: getattr(sharded, field) for field in (*fields, "replica_id", "prepend_axis_num")}
    return [ShardedTensor(data=empty, **kept)]


def cut_into_boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut a range of a row-major array's elements into boxes, in order.

    Args:
        shape: of the array, at least one axis.
        start: first element of the range.
        stop: element after the last.

    Yields:
        Offsets and sizes of a box, neither of them empty.
    """
    if start >= stop:
        return
    if len(shape) == 1:
        yield (start,), (stop - start,)
        return
    row = math.prod(shape[1:])
    first_whole, after_whole = -(-start // row), stop // row
    if first_whole > after_whole:  # inside a row
        yield from _in_row(shape, after_whole, start, stop)
        return
    yield from _in_row(shape, first_whole - 1, start, first_whole * row)
    if first_whole < after_whole:
        rest = tuple(shape[1:])
        yield (first_whole, *(0 for _ in rest)), (after_whole - first_whole, *rest)
    yield from _in_row(shape, after_whole, after_whole * row, stop)


def _in_row(
    shape: Sequence[int], index: int, start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    before = index * math.prod(shape[1:])
    for offsets, sizes in cut_into_boxes(shape[1:], start - before, stop - before):
        yield (index, *offsets), (1, *sizes)
