"""Read a torch_dist checkpoint without running code in it; refuse one that lacks what is asked for."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedObject
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load

from megatron_prealign.checkpoint.portability import may_be_absent, part_of
from megatron_prealign.checkpoint.safe_pickle import load_plain, read_metadata
from megatron_prealign.errors import CheckpointError
from megatron_prealign.platform.agreement import failing_together
from megatron_prealign.platform.megatron.optimizer_shards import MAIN_PARAMETER, PREFIX, Box
from megatron_prealign.platform.megatron.torch_dist import StateDict, load_sharded


def read_sharded(state: StateDict, folder: Path) -> StateDict:
    """Read a sharded state dict; collective.

    One data-parallel rank reads from disk what all of them need, and sends it to the others. The result leaves out
    entries that the checkpoint lacks and a run can do without.

    Raises:
        PrealignError: The table of contents can't be read, or lacks what is asked for; raised on all ranks.
        CheckpointException: A file lacks what is asked for. megatron-core raises a dozen other types.
    """
    # Before torch's `load`, which would print the traceback of a rank that fails in it.
    with failing_together():
        metadata = _read_contents(folder)
        unknown = sorted(key for key in metadata.state_dict_metadata if part_of(key) is None)
        if unknown and "optimizer" in state:
            raise CheckpointError(
                f"{folder}: this version does not know {', '.join(unknown[:3])} and would drop it; resume with "
                "the version that saved it, or load only the weights with checkpoint.init_from"
            )

    def check_keys(keys: Collection[str]) -> None:
        absent = sorted(keys - metadata.state_dict_metadata.keys())
        if absent:
            raise CheckpointError(_tell_absent(folder, absent))

    return load_sharded(
        _without_dispensable(state, metadata),
        folder,
        make_reader=lambda: _SafeReader(folder, metadata),
        check_keys=check_keys,
        load_plain=load_plain,
    )


def read_boxes(boxes: Sequence[Box], folder: Path) -> list[str]:
    """Read boxes of tensors into the memory that they name; collective. One stored part is in memory at a time.

    Returns:
        Names of weights that differ from their main parameters, as far as this rank reads them.

    Raises:
        PrealignError: The table of contents can't be read, or lacks what is asked for; raised on all ranks.
        CheckpointException: The files can't be read.
    """
    with failing_together():
        metadata = _read_contents(folder)
        items = [item for box in boxes for item in _read_items(box, metadata, folder)]
    planner = _BoxPlanner(boxes, items)
    load({}, storage_reader=_SafeReader(folder, metadata), planner=planner)
    return sorted(planner.mismatched)


def _read_contents(folder: Path) -> Metadata:
    """Read the table of contents and refuse one without a part of a tensor: torch would leave that part as it is."""
    metadata = read_metadata(folder / ".metadata")
    for key, stored in metadata.state_dict_metadata.items():
        if isinstance(stored, TensorStorageMetadata):
            missing = math.prod(stored.size) - sum(math.prod(chunk.sizes) for chunk in stored.chunks)
            if missing > 0:
                raise CheckpointError(f"{folder}: {key} lacks {missing} values; use another checkpoint")
    return metadata


def _read_items(box: Box, metadata: Metadata, folder: Path) -> list[ReadItem]:
    """Return the parts of stored tensors that a box is read from."""
    stored = metadata.state_dict_metadata.get(box.key)
    if stored is None:
        raise CheckpointError(_tell_absent(folder, [box.key]))
    if not isinstance(stored, TensorStorageMetadata) or tuple(stored.size) != box.global_shape:
        raise CheckpointError(
            f"{folder}: {box.key} is not a tensor of shape {box.global_shape}; use another checkpoint"
        )
    wanted = ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes))
    return list(create_read_items_for_chunk_list(box.key, stored, [wanted]))


class _BoxPlanner(LoadPlanner):
    """Reads boxes into their places."""

    def __init__(self, boxes: Sequence[Box], items: list[ReadItem]) -> None:
        self._boxes = {MetadataIndex(box.key, box.offsets): box for box in boxes}
        self._items = items
        self.mismatched: set[str] = set()

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        assert metadata is not None
        self._metadata = metadata

    def create_local_plan(self) -> LoadPlan:
        return LoadPlan(self._items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        raise AssertionError(f"{read_item.dest_index.fqn} is not a tensor")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        values, weight = self._places(read_item)
        # In fp32 the main parameter is the weight itself; compare before it is overwritten.
        return values if weight is None else torch.empty_like(values)

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        values, weight = self._places(read_item)
        if weight is not None:
            name = read_item.dest_index.fqn.removeprefix(f"{PREFIX}.{MAIN_PARAMETER}.")
            # The weight was rounded to this type when it was saved, by a run of perhaps another precision.
            stored = self._metadata.state_dict_metadata[name]
            assert isinstance(stored, TensorStorageMetadata)
            if not torch.equal(tensor.to(stored.properties.dtype).to(weight.dtype), weight):
                self.mismatched.add(name)
            values.copy_(tensor)

    def _places(self, read_item: ReadItem) -> tuple[Tensor, Tensor | None]:
        box = self._boxes[read_item.dest_index]
        places = (box.values, box.model_weight)
        offsets, lengths = read_item.dest_offsets, read_item.lengths
        values, weight = (
            None if place is None else narrow_tensor_by_index(place, offsets, lengths) for place in places
        )
        assert values is not None
        return values, weight


def _without_dispensable(state: StateDict, metadata: Metadata) -> StateDict:
    """Return the state dict without the dispensable objects that the checkpoint lacks."""

    def is_dispensable(value: Any) -> bool:
        return (
            isinstance(value, ShardedObject)
            and value.unique_key not in metadata.state_dict_metadata
            and may_be_absent(value.unique_key)
        )

    return {
        name: {key: value for key, value in part.items() if not is_dispensable(value)}
        if isinstance(part, dict)
        else part
        for name, part in state.items()
    }


class _SafeReader(FileSystemReader):
    """Uses a table of contents that was read safely, in place of torch's own, which unpickles anything."""

    def __init__(self, folder: str | Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._metadata = metadata

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        self._metadata.storage_meta = self._metadata.storage_meta or StorageMeta()
        self._metadata.storage_meta.load_id = self.load_id
        return self._metadata


def _tell_absent(checkpoint_dir: str | Path, absent: list[str]) -> str:
    """Return the problem of a checkpoint that lacks entries."""
    part = part_of(absent[0])
    kind = "" if part is None else f" ({part.name})"
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    return f"{checkpoint_dir}: it lacks {absent[0]}{kind}{more}; use another checkpoint"
