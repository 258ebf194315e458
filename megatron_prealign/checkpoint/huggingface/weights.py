"""The safetensors files of a Hugging Face folder: read tensor by tensor, written tensor by tensor."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_prealign.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 8
_FLUSH_BYTES = 128 * 2**20
# Buffers that old releases saved; they follow from the configuration.
_BUFFERS = re.compile(r"\.rotary_emb\.inv_freq$|\.attention\.(masked_)?bias$")


class FolderTensors(Mapping[str, Tensor]):
    """The weights of a folder by their Hugging Face names, buffers left out."""

    def __init__(self, folder: Path) -> None:
        """Open every weight file and read its table of contents.

        Raises:
            CheckpointError: no safetensors, or files or tensors are missing, damaged or of a type that can't be trained
                on; all are listed.
        """
        problems: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._files: dict[str, Any] = {}
        self.notes: list[str] = []
        """What users should know about the files."""
        if (folder / SINGLE).is_file() and (folder / INDEX).is_file():
            self.notes.append(f"{folder}: has {SINGLE} and {INDEX}; the former is read, as in transformers")
        expected = _expected_names(folder)
        for path, names in expected.items():
            problems += self._open(path, names)
        if problems:
            raise CheckpointError(problems)

    def _open(self, path: Path, expected: set[str] | None) -> Iterator[str]:
        """Read a file's table of contents; yield its problems."""
        if not path.is_file():
            yield f"{path}: this weight file is missing; download the whole folder"
            return
        try:
            file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            yield f"{path}: not a complete safetensors file ({error}); download it again"
            return
        names = set(file.keys())
        if expected is not None:
            yield from (f"{path}: lacks {name}, which the index lists" for name in sorted(expected - names))
            names &= expected
        for name in sorted(name for name in names if not _BUFFERS.search(name)):
            part = file.get_slice(name)
            kind = part.get_dtype()
            if kind not in _DTYPES:
                yield f"{path}: {name} is stored as {kind}; supported: {', '.join(_DTYPES)}"
                continue
            self._files[name] = file
            self.shapes[name] = tuple(part.get_shape())
            self.dtypes[name] = _DTYPES[kind]

    def leave_out(self, name: str) -> None:
        """Forget a weight."""
        for table in (self.shapes, self.dtypes, self._files):
            del table[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Return the number of weights."""
        return len(self.shapes)

    def __getitem__(self, name: str) -> Tensor:
        """Read a weight."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def _expected_names(folder: Path) -> dict[Path, set[str] | None]:
    """Return the weight files, each with its tensors according to the index, if there is one."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder}: the weights are pickles ({', '.join(pickles[:3])}), which can run code when they are read; "
                "use the model's safetensors version, or convert the pickles yourself if you trust them"
            )
        raise CheckpointError(f"{folder}: no {SINGLE} and no {INDEX}; name a Hugging Face folder with weights")
    try:
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        by_file: dict[Path, set[str] | None] = {}
        for name, file in weight_map.items():
            names = by_file.setdefault(folder / Path(file).name, set())
            assert names is not None
            names.add(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / INDEX}: not an index of weights ({error!r}); download or export the folder again"
        ) from None
    return by_file


def write_safetensors(
    path: Path, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a file tensor by tensor and sync it to disk; safetensors itself needs the whole file in memory.

    The format is 8 bytes with the length of the header (little-endian), the header (JSON: type, shape and place of each
    tensor) and the tensors' bytes. Writing overlaps with the computation of later tensors.

    Args:
        path: file to write.
        shapes: of every tensor, in order.
        dtype: of all tensors.
        tensors: names and contiguous tensors on the CPU, in the same order.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    expected = iter(shapes)
    with path.open("wb") as file, ThreadPoolExecutor(1) as background:
        file.write(len(text).to_bytes(8, "little") + text)
        flush: Future[None] | None = None
        waiting = 0
        for name, tensor in tensors:
            assert name == next(expected) and tensor.shape == torch.Size(shapes[name]) and tensor.dtype == dtype
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            waiting += tensor.nbytes
            if waiting >= _FLUSH_BYTES and (flush is None or flush.done()):
                file.flush()
                flush, waiting = background.submit(os.fdatasync, file.fileno()), 0
        assert next(expected, None) is None
        file.flush()
        if flush is not None:
            flush.result()
        os.fsync(file.fileno())
