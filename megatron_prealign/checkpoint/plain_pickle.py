"""Read a file of torch.save without running code in it.

A pickle names classes and functions to call. Here none of them is imported: a stand-in replaces each, does nothing and
keeps the state that it gets. Plain values are read as they are, an object as its attributes, and code is never found.
"""

import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

from megatron_prealign.errors import CheckpointError

_CONTENT = "data.pkl"


class Opaque:
    """Replaces an object of a class that was not imported, or the result of a call that was not made."""

    attributes: dict[str, Any]

    def __new__(cls, *_: Any, **__: Any) -> "Opaque":
        """Take any arguments."""
        made = object.__new__(cls)
        made.attributes = {}
        return made

    def __call__(self, *_: Any, **__: Any) -> "Opaque":
        """Replace the result of another call: one call looks up a method, a second calls it."""
        return Opaque()

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes of a plain object."""
        self.attributes = state if isinstance(state, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take an item of a dictionary-like object."""

    def append(self, value: Any) -> None:
        """Take an item of a list-like object."""

    def extend(self, values: Any) -> None:
        """Take the items of a list-like object."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return Opaque

    def persistent_load(self, pid: Any) -> Any:
        """Leave out the content of a tensor."""


def read_plain(source: Path | IO[bytes], path: Path) -> Any:
    """Return the content of a file written by torch.save, with stand-ins for tensors and other objects.

    Args:
        source: file, or path to one.
        path: what an error names.

    Raises:
        CheckpointError: it is missing, or not such a file.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            name = next(name for name in archive.namelist() if name.endswith(f"/{_CONTENT}"))
            with archive.open(name) as file:
                return _Reader(file).load()
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    except Exception as error:
        # Damaged archives and pickles raise errors of many types.
        raise CheckpointError(f"{path}: not written by torch.save ({error!r}); use another checkpoint") from None
