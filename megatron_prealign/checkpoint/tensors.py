"""Read and write single weights of a torch_dist checkpoint without a model or a process group.

megatron-core loads into a model and saves from one, which may not fit in memory; conversion needs no model. The files
are the same: torch.distributed.checkpoint reads and writes them.
"""

import io
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.utils import _create_file_view

from megatron_prealign.checkpoint.safe_pickle import read_metadata
from megatron_prealign.errors import CheckpointError
from megatron_prealign.platform.megatron.torch_dist import write_common

_MODEL_KEYS = ("embedding.", "decoder.", "output_layer.")
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
    """Return a weight's key in a checkpoint and its layer, the index along the key's first axis; None outside layers.

    The name is that of the local layer spec, layers numbered over the whole model.
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

    megatron-core stores all layers under one key, or, if they differ or on request, each layer under its own key.
    """
    if not is_stacked(key):
        return [local_name(key)]
    inside = local_name(key.removeprefix(_ALL_LAYERS))
    return [f"{_ALL_LAYERS}{layer}.{inside}" for layer in range(num_layers)]


class CheckpointTensors(Mapping[str, Tensor]):
    """The model's weights in a torch_dist checkpoint of any layout, each read when it is asked for.

    Keys are the names of the local layer spec at TP1 PP1. There is only the model, no optimizer state.
    """

    def __init__(self, checkpoint: Path) -> None:
        """Read the checkpoint's table of contents.

        Raises:
            CheckpointError: it can't be read, or has names that a table of contents does not need.
        """
        self.path = checkpoint
        self._metadata = read_metadata(checkpoint / ".metadata")
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, tuple[str, int | None]] = {}
        for key, stored in self._metadata.state_dict_metadata.items():
            if isinstance(stored, TensorStorageMetadata) and key.startswith(_MODEL_KEYS):
                stacked = is_stacked(key)
                num_layers, *shape = stored.size if stacked else (1, *stored.size)
                for layer, name in enumerate(names_under(key, num_layers)):
                    self.shapes[name] = tuple(shape)
                    self._places[name] = (key, layer if stacked else None)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Return the number of weights."""
        return len(self.shapes)

    def dtype(self, name: str) -> torch.dtype:
        """Return the type that a weight is stored in."""
        dtype: torch.dtype = self._stored(name).properties.dtype
        return dtype

    def __getitem__(self, name: str) -> Tensor:
        """Read a weight.

        Raises:
            CheckpointError: it is damaged or incomplete.
        """
        key, layer = self._places[name]
        shape, stored = self.shapes[name], self._stored(name)
        offsets, sizes = (0,) * len(shape), shape
        if layer is not None:
            offsets, sizes = (layer, *offsets), (1, *shape)
        wanted = ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes))
        items = create_read_items_for_chunk_list(key, stored, [wanted])
        if sum(item.lengths.numel() for item in items) != torch.Size(sizes).numel():
            raise CheckpointError(f"{self.path}: parts of {name} are missing; use another checkpoint")
        try:
            parts = [self._read(item) for item in items]
        except Exception as error:
            # Damaged archives and pickles raise errors of many types.
            raise CheckpointError(f"{self.path}: {name} can't be read ({error}); use another checkpoint") from error
        return _join(parts, items, sizes).reshape(shape)

    def _read(self, item: ReadItem) -> Tensor:
        """Return the wanted part of one stored piece."""
        place = self._metadata.storage_data[item.storage_index]
        with (self.path / place.relative_path).open("rb") as file:
            piece = _mapped_tensor(file, place.offset, place.length)
        return narrow_tensor_by_index(piece, item.storage_offsets, item.lengths)

    def _stored(self, name: str) -> TensorStorageMetadata:
        stored = self._metadata.state_dict_metadata[self._places[name][0]]
        assert isinstance(stored, TensorStorageMetadata)
        return stored


def _mapped_tensor(file: io.BufferedReader, offset: int, length: int) -> Tensor:
    """Return a tensor that torch.save wrote at a place of a file; its memory is the file's pages, mapped privately.

    Copying weights into fresh memory would be the most expensive part of an export.
    """
    with FakeTensorMode():  # reads everything but the numbers, and records where they are
        stored: Tensor = torch.load(cast(IO[bytes], _create_file_view(file, offset, length)), weights_only=True)
    storage = stored.untyped_storage()
    start = offset + cast(int, storage._checkpoint_offset)
    before = start % mmap.ALLOCATIONGRANULARITY
    pages = mmap.mmap(file.fileno(), before + storage.nbytes(), access=mmap.ACCESS_COPY, offset=start - before)
    pages.madvise(mmap.MADV_WILLNEED)
    numbers = torch.frombuffer(pages, dtype=stored.dtype, offset=before)
    return numbers.as_strided(stored.shape, stored.stride(), stored.storage_offset())


def _join(parts: Sequence[Tensor], items: Sequence[ReadItem], sizes: Sequence[int]) -> Tensor:
    """Return a weight from its parts."""
    if len(parts) == 1:
        return parts[0]
    whole = torch.empty(tuple(sizes), dtype=parts[0].dtype)
    for part, item in zip(parts, items, strict=True):
        narrow_tensor_by_index(whole, item.dest_offsets, item.lengths).copy_(part)
    return whole


class _LazySavePlanner(DefaultSavePlanner):
    """Makes each weight when it is written."""

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], num_layers: int, dtype: torch.dtype, read: Callable[[str], Tensor]
    ) -> None:
        super().__init__(flatten_state_dict=False)
        self._names: dict[MetadataIndex, str] = {}
        self._read = read
        self._items: list[WriteItem] = []
        for name, shape in shapes.items():
            key, layer = checkpoint_key(name)
            offsets, sizes, whole = (0,) * len(shape), tuple(shape), tuple(shape)
            if layer is not None:
                offsets, sizes, whole = (layer, *offsets), (1, *sizes), (num_layers, *whole)
            index = MetadataIndex(key, torch.Size(offsets))
            chunk = ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes))
            data = TensorWriteData(chunk, TensorProperties(dtype=dtype), torch.Size(whole))
            self._names[index] = name
            self._items.append(WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data))

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan(self._items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        assert write_item.tensor_data is not None
        name = self._names[MetadataIndex(write_item.index.fqn, write_item.index.offset)]
        return self._read(name).reshape(write_item.tensor_data.chunk.sizes)


def write_tensors(
    folder: Path,
    shapes: Mapping[str, Sequence[int]],
    num_layers: int,
    dtype: torch.dtype,
    read: Callable[[str], Tensor],
) -> None:
    """Write weights as a torch_dist checkpoint for any layout; one weight is in memory at a time.

    Args:
        folder: existing folder to write into.
        shapes: shape of each weight by its name in the local layer spec at TP1 PP1.
        num_layers: of the model.
        dtype: of the weights that `read` returns by name.
        read: makes a weight.
    """
    planner = _LazySavePlanner(shapes, num_layers, dtype, read)
    try:
        save({}, storage_writer=FileSystemWriter(folder), planner=planner, no_dist=True)
    except CheckpointException as error:
        # It wraps the errors of `read` and the file system, which say more.
        raise next(iter(error.failures.values()))[0] from error
    write_common({}, folder)
