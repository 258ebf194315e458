"""The versions of megatron-core that this package knows; others are refused when megatron-core is imported.

Internals differ between versions, and some differences change results without an error: an unknown version may train
on other sequences, or read another part of a checkpoint.
"""

import runpy
from collections.abc import Sequence
from pathlib import Path

from megatron_prealign.errors import PrealignError

Version = tuple[int, int, int]

SUPPORTED: tuple[tuple[Version, Version], ...] = (((0, 16, 1), (0, 17, 0)), ((0, 19, 0), (0, 20, 0)))
"""Ranges of versions: the first one in each, and the first one after it. pyproject.toml asks pip for the same."""


def is_supported(version: Version) -> bool:
    """Tell whether this package works with a version of megatron-core."""
    return any(first <= version < after for first, after in SUPPORTED)


def check_core_version(folders: Sequence[str]) -> None:
    """Refuse a megatron-core that is not supported, before it is imported.

    Args:
        folders: where the package `megatron` is searched: an installation, or a checkout of Megatron-LM.

    Raises:
        PrealignError: Its version is not supported.
    """
    for folder in folders:
        path = Path(folder, "core", "package_info.py")
        if path.is_file():
            info = runpy.run_path(str(path))
            if not is_supported((info["MAJOR"], info["MINOR"], info["PATCH"])):
                ranges = " or ".join(f">={_text(first)},<{_text(after)}" for first, after in SUPPORTED)
                raise PrealignError(
                    f"megatron-core {info['__version__']} in {path.parent} is not supported (supported: {ranges}); "
                    "install one: pip install 'megatron-core==0.16.1', or 0.19.2 with Python 3.12 or newer"
                )
            return


def _text(version: Version) -> str:
    return ".".join(str(part) for part in version)
