"""Read weights of a Hugging Face folder lazily, from safetensors files only."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_prealign.errors import CheckpointError

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
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
                yield f"{path}: {name} is stored as {kind}; known: {', '.join(_DTYPES)}"
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
    if (folder / _SINGLE).is_file() and not (folder / INDEX).is_file():
        return {folder / _SINGLE: None}
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder}: the weights are pickles ({', '.join(pickles[:3])}), which can run code when they are read; "
                "take the safetensors version of the model, or convert it where you trust it"
            )
        raise CheckpointError(f"{folder}: no {_SINGLE} and no {INDEX}; name a Hugging Face folder with weights")
    try:
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        by_file: dict[Path, set[str] | None] = {}
        for name, file in weight_map.items():
            names = by_file.setdefault(folder / Path(file).name, set())
            assert names is not None
            names.add(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX}: not an index of weights ({error!r})") from None
    return by_file
