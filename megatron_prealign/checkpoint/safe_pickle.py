"""Read the pickles inside checkpoints without running code in them.

A pickle names classes and functions to call. torch writes the table of contents of a torch_dist checkpoint as one, and
Transformer Engine the scaling state of fp8: there, only the names that belong to them are allowed. Of other pickles no
name is looked up: a stand-in replaces each, does nothing and keeps the state that it gets.
"""

import contextlib
import enum
import io
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata

from megatron_prealign.errors import CheckpointError

Globals = Mapping[str, frozenset[str]]
"""Names that a pickle may use, by module."""

_DTYPES = frozenset({"bfloat16", "float16", "float32", "float64", "int32", "int64", "uint8", "bool"})

# The content of the metadata of a torch_dist checkpoint: plain records, and functions that look up a name.
_METADATA: Globals = {
    "torch.distributed.checkpoint.metadata": frozenset(
        {
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        }
    ),
    "torch.distributed.checkpoint.planner": frozenset({"SavePlan", "TensorWriteData", "WriteItem", "WriteItemType"}),
    "torch.distributed.checkpoint.filesystem": frozenset({"_StorageInfo"}),
    "torch.serialization": frozenset({"_get_layout"}),
    "torch": _DTYPES | {"Size"},
    "pathlib": frozenset({"PosixPath"}),
    "pathlib._local": frozenset({"PosixPath"}),
    # Only for members of an enumeration, which Python 3.11.0 to 3.11.3 writes so.
    "builtins": frozenset({"getattr"}),
}

# The scaling state of Transformer Engine's fp8 layers: a recipe, and tensors.
_FP8_STATE: Globals = {
    "transformer_engine.common.recipe": frozenset(
        {
            "DelayedScaling",
            "Float8BlockScaling",
            "Float8CurrentScaling",
            "Format",
            "MMParams",
            "MXFP8BlockScaling",
            "NVFP4BlockScaling",
            "QParams",
            "_FormatHelper",
            "_OverrideLinearPrecision",
        }
    ),
    "torch._utils": frozenset({"_rebuild_tensor_v2"}),
    # From 0.17 on, megatron-core replaces the first by the second.
    "torch.storage": frozenset({"_load_from_bytes"}),
    "megatron.core.safe_globals": frozenset({"safe_load_from_bytes"}),
    "torch": _DTYPES | {"Size"},
    "collections": frozenset({"OrderedDict"}),
}


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


class _SafeUnpickler(pickle.Unpickler):
    """Unpickles objects of the allowed names only."""

    def __init__(self, file: Any, allowed: Globals) -> None:
        super().__init__(file)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if name not in self._allowed.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed there")
        return self._look_up(module, name)

    def _look_up(self, module: str, name: str) -> Any:
        return _enum_member if (module, name) == ("builtins", "getattr") else super().find_class(module, name)


class _Scanner(_SafeUnpickler):
    """Checks the names in a pickle without making its objects."""

    def _look_up(self, module: str, name: str) -> Any:
        return _load_plain if name.endswith("load_from_bytes") else Opaque


def _enum_member(enumeration: Any, name: Any) -> enum.Enum:
    if not isinstance(enumeration, enum.EnumMeta):
        raise pickle.UnpicklingError(f"it takes {name!r} of {enumeration!r}, which is not allowed there")
    member: enum.Enum = enumeration[name]
    return member


def _load_plain(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def read_metadata(path: Path) -> Metadata:
    """Read the table of contents of a torch_dist checkpoint.

    Raises:
        CheckpointError: It can't be read, or has names that a table of contents does not need.
    """
    try:
        with path.open("rb") as file:
            metadata = _SafeUnpickler(file, _METADATA).load()
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror}); name a torch_dist checkpoint") from None
    except Exception as error:
        # Damaged pickles raise errors of many types.
        raise CheckpointError(
            f"{path}: not the metadata of a torch_dist checkpoint ({error}); use another checkpoint"
        ) from None
    if not isinstance(metadata, Metadata):
        raise CheckpointError(f"{path}: not the metadata of a torch_dist checkpoint; use another checkpoint")
    return metadata


_TORCH_REASONS = ("WeightsUnpickler error", "Trying to load")


def load_plain(source: Any, path: Path) -> Any:
    """Read tensors and plain values that torch.save wrote.

    Args:
        source: file, or path to one.
        path: named in errors.

    Raises:
        CheckpointError: It is damaged, or holds other objects.
    """
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error}); use another checkpoint") from None
    except Exception as error:
        # Damaged pickles raise errors of many types; some messages of torch advise to disable the check.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = next((line for line in lines if line.startswith(_TORCH_REASONS)), lines[0])
        raise CheckpointError(
            f"{path}: damaged, or it holds more than tensors and plain values ({reason}); use another checkpoint"
        ) from None


def check_extra_states(state: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse extra states of layers with anything but an fp8 recipe and tensors: Transformer Engine unpickles them.

    Args:
        state: loaded state dict of a model.
        checkpoint: named in errors.

    Raises:
        CheckpointError: There are such states.
    """
    problems = []
    for name, value in state.items():
        if name.endswith("_extra_state") and isinstance(value, Tensor) and value.numel():
            try:
                _Scanner(io.BytesIO(value.cpu().numpy().tobytes()), _FP8_STATE).load()
            except Exception as error:
                problems.append(f"{checkpoint}: {name} is not a scaling state of fp8: {error}; use another checkpoint")
    if problems:
        raise CheckpointError(problems)


_ALLOW_PICKLES = "NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE"


@contextlib.contextmanager
def pickled_states_allowed() -> Iterator[None]:
    """Let Transformer Engine unpickle extra states inside the context, after `check_extra_states` has passed them.

    From 2.20 on it refuses them without this variable, which it reads for each state.
    """
    before = os.environ.get(_ALLOW_PICKLES)
    os.environ[_ALLOW_PICKLES] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ALLOW_PICKLES]
        else:
            os.environ[_ALLOW_PICKLES] = before


_CONTENT = "data.pkl"


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
