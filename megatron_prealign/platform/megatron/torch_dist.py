"""megatron-core's torch_dist files, written by this process alone and read without running what is in them.

megatron-core's own strategies write through helper processes, which outlive a trainer that is killed and may still
write into the folder of its successor; and they read with pickle. The files are the same, for 0.16 to 0.19: from 0.17
on megatron-core keeps what is equal on all ranks among the objects, and still reads `common.pt`. Can go when
megatron-core writes without helper processes and reads only what is plain.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingConfig, maybe_load_config, save_config
from megatron.core.dist_checkpointing.dict_utils import merge, nested_values
from megatron.core.dist_checkpointing.mapping import apply_factory_merges
from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess, save_preprocess
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelLoadStrategyWrapper
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreLoadPlanner,
    MCoreSavePlanner,
    _replace_sharded_keys_with_state_dict_keys,
    _replace_state_dict_keys_with_sharded_keys,
    _restore_dict_types,
    _unwrap_pyt_sharded_tensor,
    mcore_to_pyt_state_dict,
)
from megatron.core.dist_checkpointing.utils import extract_sharded_base, force_all_tensors_to_non_fp8
from megatron.core.dist_checkpointing.validation import (
    StrictHandling,
    determine_global_metadata,
    validate_integrity_and_strict_load,
)
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from megatron_prealign.errors import CheckpointError, PrealignError
from megatron_prealign.platform.agreement import failing_together
from megatron_prealign.platform.megatron.optimizer_shards import Box
from megatron_prealign.platform.mesh import Mesh

StateDict = dict[str, Any]

_COMMON_STATE = "common_state/shard_0_1"

LoadPlain = Callable[[Any, Path], Any]
"""Reads what torch.save wrote, from (a file or its path, the path that errors name); only plain values."""


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
            write_common(common, folder)
    return [path.name for path in folder.glob(f"__{rank}_*")]


def write_common(common: StateDict, folder: Path) -> None:
    """Write what exists once: plain values that are equal on all ranks, and the format's name."""
    torch.save(common, folder / COMMON_STATE_FNAME)
    save_config(CheckpointingConfig("torch_dist"), str(folder))


def find_common(folder: Path, metadata: Metadata) -> tuple[Path, int, int | None]:
    """Return where megatron-core put what exists once: the file, and where in it a file of torch.save begins and ends.

    It is the content of `common.pt`. From 0.17 on, it is the only item of a list among the objects of the ranks.

    Args:
        folder: the checkpoint.
        metadata: its table of contents.
    """
    place = metadata.storage_data.get(MetadataIndex(_COMMON_STATE)) if metadata.storage_data else None
    path = folder / COMMON_STATE_FNAME
    if place is None or path.exists():
        return path, 0, None
    return folder / place.relative_path, place.offset, place.offset + place.length


class _SavePlanner(MCoreSavePlanner):  # type: ignore[misc]
    """megatron-core's planner of a sharded state dict, and boxes in addition to it."""

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


def load_sharded(
    state: StateDict,
    folder: Path,
    *,
    make_reader: Callable[[], FileSystemReader],
    check_keys: Callable[[Collection[str]], None],
    load_plain: LoadPlain,
) -> StateDict:
    """Load a sharded state dict as megatron-core's `dist_checkpointing.load` does; collective.

    What all data-parallel ranks need is read from the disk by one of them, and sent to the others.

    Args:
        state: sharded state dict.
        folder: the checkpoint.
        make_reader: makes a reader of it.
        check_keys: raises where the checkpoint lacks one of these keys.
        load_plain: reads objects and the common part.

    Raises:
        PrealignError: What `check_keys` raises; on all ranks.
        CheckpointException: The files don't hold what is asked for; and a dozen errors of megatron-core.
    """
    if maybe_load_config(str(folder)) is None:
        raise CheckpointError(f"{folder}: no torch_dist checkpoint; name another")
    force_all_tensors_to_non_fp8(state)
    path = folder / COMMON_STATE_FNAME
    result: StateDict = load_plain(path, path)
    state, nonpersistent, factories = load_preprocess(state)
    merge(result, nonpersistent)
    state, _ = extract_sharded_base(state)
    strict = StrictHandling.ASSUME_OK_UNEXPECTED
    state, _, _ = validate_integrity_and_strict_load(state, strict, True, *determine_global_metadata(state))
    strategy = _LoadStrategy(make_reader, check_keys, load_plain)
    loaded = FullyParallelLoadStrategyWrapper(strategy, Mesh.current().replicas.group).load(state, folder)
    merge(result, loaded)
    merged: StateDict = apply_factory_merges(result, factories)
    return merged


class _LoadPlanner(MCoreLoadPlanner):  # type: ignore[misc]
    """Reads objects between the tensors if they are plain."""

    def __init__(self, load_plain: LoadPlain, tensors: Sequence[ShardedTensor]) -> None:
        super().__init__(
            shapes_validation_sharded_tensors=[tensor for tensor in tensors if not tensor.allow_shape_mismatch],
            allow_shape_mismatch_sharded_tensors={
                tensor.key: tensor for tensor in tensors if tensor.allow_shape_mismatch
            },
        )
        self._load_plain = load_plain

    def load_bytes(self, read_item: Any, value: Any) -> None:
        name = read_item.dest_index.fqn
        self.original_state_dict[name] = self._load_plain(value, Path(name))


class _LoadStrategy:
    """megatron-core's `TorchDistLoadShardedStrategy` with the given reader, and a planner that reads plain objects."""

    def __init__(
        self,
        make_reader: Callable[[], FileSystemReader],
        check_keys: Callable[[Collection[str]], None],
        load_plain: LoadPlain,
    ) -> None:
        self._make_reader = make_reader
        self._check_keys = check_keys
        self._load_plain = load_plain

    def load(self, state: StateDict, *_: Any) -> StateDict:
        """Load a part of a state dict; the folder is the reader's, and from 0.17 on a writer of files is named too."""
        tensors = [value for value in nested_values(state) if isinstance(value, ShardedTensor)]
        flat, flat_mapping, rename_mapping = _replace_state_dict_keys_with_sharded_keys(state)
        torch_state = mcore_to_pyt_state_dict(flat, is_loading=True)
        with failing_together():
            self._check_keys(torch_state.keys())
        load(torch_state, storage_reader=self._make_reader(), planner=_LoadPlanner(self._load_plain, tensors))
        unwrapped = {name: _unwrap_pyt_sharded_tensor(value) for name, value in torch_state.items()}
        result: StateDict = _replace_sharded_keys_with_state_dict_keys(unwrapped, flat_mapping, rename_mapping)
        _restore_dict_types(result, state)
        return result
