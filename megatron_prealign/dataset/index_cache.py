"""Sample indices on disk: built once, then read by every process and every later start."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.errors import DataError
from megatron_prealign.files import atomic_file

Arrays = tuple[NDArray[Any], ...]


class IndexCache:
    """A folder of .npy files, each named by a hash of all that it depends on; counts the indices found and built."""

    def __init__(self, folder: str | Path | None = None, *, read_only: bool = False) -> None:
        """Keep indices in a folder, or without one build each in memory; `read_only` refuses to build any."""
        self._folder = None if folder is None else Path(folder)
        self._read_only = read_only
        self.found = self.built = 0
        self.seconds = 0.0

    def get(
        self, name: str, description: Mapping[str, Any], kinds: Sequence[str], build: Callable[[], Arrays]
    ) -> Arrays:
        """Return the arrays of one index, each mapped from its file.

        Args:
            name: part of their file names, after the hash.
            description: all dependencies of the arrays except the program; for JSON.
            kinds: the name of each array, in order.
            build: makes the arrays.

        Raises:
            DataError: they are missing and must not be built here, or a file is damaged.
        """
        start = time.monotonic()
        if self._folder is None:
            arrays = build()
            self._count_built(start)
            return arrays
        digest = sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]
        paths = [self._folder / f"{digest}-{name}-{kind}_index.npy" for kind in kinds]
        if all(path.exists() for path in paths):
            self.found += 1
        elif self._read_only:
            raise DataError(
                f"{self._folder}: the sample index {digest}-{name} that another rank wrote is not visible here; set "
                "data.cache_path to a folder that all ranks of a host share"
            )
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            for path, array in zip(paths, build(), strict=True):
                with atomic_file(path, overwrite=True) as temporary, temporary.open("wb") as stream:
                    np.save(stream, array, allow_pickle=False)
            self._count_built(start)
        return tuple(_read(path) for path in paths)

    def _count_built(self, start: float) -> None:
        self.built += 1
        self.seconds += time.monotonic() - start

    def describe(self, of: str = "") -> str:
        """Say where the indices came from; `of` names their subject."""
        name = f"Sample index{of and ' of '}{of}"
        if not self.built:
            return f"{name}: all {self.found} parts found in {self._folder}."
        where = "in memory" if self._folder is None else f"into {self._folder}"
        return f"{name}: {self.built} parts built {where} in {self.seconds:.1f} s, {self.found} found."


def _read(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged ({error}); delete it, and the next start rebuilds it") from None
    return array
