"""Write a safetensors file tensor by tensor; the library itself needs the whole file in memory.

Format: 8 bytes with the length of the header (little-endian), the header (JSON: type, shape and place of each tensor),
the tensors' bytes one after another.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_ALIGNMENT = 8
_FLUSH_BYTES = 128 * 2**20


def write_safetensors(
    path: Path, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a file and sync it to disk; writing overlaps with the computation of later tensors.

    Args:
        path: file to write.
        shapes: of every tensor, in the order in which they come.
        dtype: of all of them.
        tensors: names and contiguous tensors on the CPU.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
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
