"""megatron-core's torch_dist files, written by this process alone and read without running what is in them.

megatron-core's own strategies write through helper processes, which outlive a trainer that is killed and may still
write into the folder of its successor; and they read with pickle. The files are the same.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME, TorchCommonLoadStrategy
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelLoadStrategyWrapper
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreLoadPlanner,
    MCoreSavePlanner,
    TorchDistLoadShardedStrategy,
    _replace_sharded_keys_with_state_dict_keys,
    _replace_state_dict_keys_with_sharded_keys,
    _restore_dict_types,
    _unwrap_pyt_sharded_tensor,
    mcore_to_pyt_state_dict,
)
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from megatron_prealign.checkpoint.optimizer_shards import MAIN_PARAMETER, PREFIX, Box
from megatron_prealign.checkpoint.portability import may_be_absent, part_of, unknown_keys
from megatron_prealign.checkpoint.safe_pickle import load_plain, read_metadata
from megatron_prealign.errors import CheckpointError, PrealignError
from megatron_prealign.platform.agreement import failing_together

StateDict = dict[str, Any]


def write_sharded(state: StateDict, folder: Path, boxes: Sequence[Box] = ()) -> list[str]:
    """Write a sharded state dict into an empty folder, one file a rank; collective.

    Args:
        state: sharded state dict.
        folder: where to write.
        boxes: parts of more tensors, of which the ranks together have each number once.

    Returns:
        The names of the files that this rank wrote and nobody brought to the disk yet.

    Raises:
        PrealignError: A rank could not write; raised on all, with the causes.
    """
    sharded, common = save_preprocess(state)
    rank = torch.distributed.get_rank()
    with failing_together():
        if rank == 0:
            torch.save(common, folder / COMMON_STATE_FNAME)
    flat, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded, keep_only_main_replica=True)
    # An error in a second thread of this writer would go unnoticed.
    writer = FileSystemWriter(folder, thread_count=1, sync_files=False)
    try:
        save(mcore_to_pyt_state_dict(flat), storage_writer=writer, planner=_SavePlanner(boxes))
    except CheckpointException as error:
        # torch's own, no Exception, with the failure of each rank.
        raise PrealignError([f"rank {rank}: {cause}" for rank, (cause, _) in error.failures.items()]) from error
    with failing_together():
        if rank == 0:
            save_config(CheckpointingConfig("torch_dist"), str(folder))
    return [path.name for path in folder.glob(f"__{rank}_*")]


def read_sharded(state: StateDict, folder: Path) -> StateDict:
    """Read a sharded state dict; collective.

    What all data-parallel ranks need is read from the disk by one of them, and sent to the others. What the checkpoint
    lacks and a run can do without is left out.

    Raises:
        PrealignError: The table of contents can't be read, or lacks what is asked for; raised on all ranks.
        CheckpointException: The files don't hold what is asked for; and a dozen errors of megatron-core.
    """
    replicas = parallel_state.get_data_parallel_group(with_context_parallel=True)
    # Read before torch's own `load`, which prints the traceback of a rank that fails in it.
    with failing_together():
        metadata = _read_contents(folder)
        unknown = unknown_keys(metadata.state_dict_metadata) if "optimizer" in state else []
        if unknown:
            raise CheckpointError(
                f"{folder}: this version does not know what {', '.join(unknown[:3])} is and would lose it; continue it "
                "with the version that saved it, or take its weights alone with checkpoint.init_from"
            )
    state = _without_dispensable(state, metadata)
    loaded: StateDict = dist_checkpointing.load(
        state,
        str(folder),
        sharded_strategy=FullyParallelLoadStrategyWrapper(_SafeLoadStrategy(metadata), replicas),
        common_strategy=_SafeCommonStrategy(),
    )
    return loaded


def read_boxes(boxes: Sequence[Box], folder: Path) -> list[str]:
    """Read boxes of tensors into the memory that they name; collective. One stored part is in memory at once.

    Returns:
        The weights whose main parameters, so far as this rank reads them, are others.

    Raises:
        PrealignError: The table of contents can't be read, or lacks what is asked for; raised on all ranks.
        CheckpointException: The files can't be read.
    """
    # Before torch's own `load`, which prints the traceback of a rank that fails in it.
    with failing_together():
        metadata = _read_contents(folder)
        items = [item for box in boxes for item in _read_items(box, metadata, folder)]
    planner = _BoxPlanner(boxes, items)
    load({}, storage_reader=_SafeReader(folder, metadata), planner=planner)
    return sorted(planner.mismatched)


def _read_contents(folder: Path) -> Metadata:
    """Read the table of contents; where a part of a tensor is stored nowhere, nothing would be read for it."""
    metadata = read_metadata(folder / ".metadata")
    for key, stored in metadata.state_dict_metadata.items():
        if isinstance(stored, TensorStorageMetadata):
            missing = math.prod(stored.size) - sum(math.prod(chunk.sizes) for chunk in stored.chunks)
            if missing > 0:
                raise CheckpointError(f"{folder}: {key} lacks {missing} numbers; name another checkpoint")
    return metadata


def _read_items(box: Box, metadata: Metadata, folder: Path) -> list[ReadItem]:
    """Return which parts of which stored tensors a box is read from."""
    stored = metadata.state_dict_metadata.get(box.key)
    if stored is None:
        raise CheckpointError(_tell_absent(folder, [box.key]))
    if not isinstance(stored, TensorStorageMetadata) or tuple(stored.size) != box.global_shape:
        raise CheckpointError(f"{folder}: {box.key} has another shape than {box.global_shape}; name another checkpoint")
    wanted = ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes))
    return list(create_read_items_for_chunk_list(box.key, stored, [wanted]))


class _SavePlanner(MCoreSavePlanner):  # type: ignore[misc]
    """megatron-core's planner of a sharded state dict, and boxes beside it."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        super().__init__(flatten_state_dict=False)
        self._boxes = {MetadataIndex(box.key, box.offsets): box for box in boxes if box.is_written}

    def create_local_plan(self) -> SavePlan:
        items = [
            WriteItem(
                index=index,
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes)),
                    properties=TensorProperties(dtype=box.values.dtype),
                    size=torch.Size(box.global_shape),
                ),
            )
            for index, box in self._boxes.items()
        ]
        self.plan = SavePlan([*super().create_local_plan().items, *items], planner_data=self.mappings)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        box = self._boxes.get(write_item.index)
        return super().resolve_data(write_item) if box is None else box.values


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
        raise AssertionError(f"{read_item.dest_index.fqn} is no tensor")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        values, weight = self._places(read_item)
        # A main parameter of fp32 is the weight itself: it is looked at before it is overwritten.
        return values if weight is None else torch.empty_like(values)

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        values, weight = self._places(read_item)
        if weight is not None:
            name = read_item.dest_index.fqn.removeprefix(f"{PREFIX}.{MAIN_PARAMETER}.")
            # What a weight was rounded to when it was saved, perhaps by a run of another precision.
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
    """Return the state dict without the objects that the checkpoint lacks and may lack."""

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


class _SafeCommonStrategy(TorchCommonLoadStrategy):  # type: ignore[misc]
    """Reads what is equal on all ranks, as long as it is plain."""

    def load_common(self, checkpoint_dir: str | Path) -> StateDict:
        path = Path(checkpoint_dir) / COMMON_STATE_FNAME
        common: StateDict = load_plain(path, path)
        return common


class _SafeReader(FileSystemReader):
    """Reads by a table of contents that was read through a list of allowed names."""

    def __init__(self, folder: str | Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._metadata = metadata

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        self._metadata.storage_meta = self._metadata.storage_meta or StorageMeta()
        self._metadata.storage_meta.load_id = self.load_id
        return self._metadata


class _SafePlanner(MCoreLoadPlanner):  # type: ignore[misc]
    """Reads objects beside the tensors as long as they are plain."""

    def load_bytes(self, read_item: Any, value: Any) -> None:
        name = read_item.dest_index.fqn
        self.original_state_dict[name] = load_plain(value, Path(name))


class _SafeLoadStrategy(TorchDistLoadShardedStrategy):  # type: ignore[misc]
    """megatron-core's reading of torch_dist, with the safe reader and planner in its places."""

    def __init__(self, metadata: Metadata) -> None:
        super().__init__()
        self._metadata = metadata

    def load(self, sharded_state_dict: StateDict, checkpoint_dir: str | Path) -> StateDict:
        tensors = [value for value in nested_values(sharded_state_dict) if isinstance(value, ShardedTensor)]
        planner = _SafePlanner(
            shapes_validation_sharded_tensors=[tensor for tensor in tensors if not tensor.allow_shape_mismatch],
            allow_shape_mismatch_sharded_tensors={
                tensor.key: tensor for tensor in tensors if tensor.allow_shape_mismatch
            },
        )
        flat, flat_mapping, rename_mapping = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict)
        torch_state = mcore_to_pyt_state_dict(flat, is_loading=True)
        absent = sorted(torch_state.keys() - self._metadata.state_dict_metadata.keys())
        with failing_together():
            if absent:
                raise CheckpointError(_tell_absent(checkpoint_dir, absent))
        load(torch_state, storage_reader=_SafeReader(checkpoint_dir, self._metadata), planner=planner)
        unwrapped = {name: _unwrap_pyt_sharded_tensor(value) for name, value in torch_state.items()}
        result: StateDict = _replace_sharded_keys_with_state_dict_keys(unwrapped, flat_mapping, rename_mapping)
        _restore_dict_types(result, sharded_state_dict)
        return result


def _tell_absent(checkpoint_dir: str | Path, absent: list[str]) -> str:
    """Return the problem of a checkpoint without what is asked for."""
    part = part_of(absent[0])
    kind = "" if part is None else f" ({part.name})"
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    return f"{checkpoint_dir}: it lacks {absent[0]}{kind}{more}; name another checkpoint"
