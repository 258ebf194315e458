"""Hook into the import of megatron-core, whichever module imports it: check its version and reduce what it imports.

* Other versions than those known here are refused. Internals differ between versions, and some differences change
  results without an error: an unknown version may train on other sequences, or read another part of a checkpoint.
* Optional packages that are broken are hidden from it (`optional_packages.py`).
* It compiles fused functions where it defines them. The compiler takes half the time of the whole import; here a
  function is compiled when it is first called, which on CPUs never happens. Can go when megatron-core does the same.
* Its inference engine imports W&B wherever that is installed, which leaves two temporary folders for each process that
  is killed. A run that is tracked by W&B imports it by itself. Can go when megatron-core imports it where it is used.
"""

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import inspect
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from megatron_prealign.errors import PrealignError
from megatron_prealign.optional_packages import find_problems

Version = tuple[int, int, int]

SUPPORTED: tuple[tuple[Version, Version], ...] = (((0, 16, 1), (0, 17, 0)), ((0, 19, 0), (0, 20, 0)))
"""Ranges of versions: the first one in each, and the first one after it. pyproject.toml asks pip for the same."""


def watch_imports() -> None:
    """Have all of this done when megatron-core is first imported in this process."""
    sys.meta_path.insert(0, _CoreFinder())


class _CoreFinder(importlib.abc.MetaPathFinder):
    """Finds megatron-core, as the other finders do, with a loader that does all of this."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of megatron-core, and none of other modules."""
        if fullname != "megatron.core":
            return None
        check_core_version(path or ())
        find_problems()
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_lightly(module: ModuleType) -> None:
                with _hidden("wandb"), _compiling_when_called():
                    execute(module)

            spec.loader.exec_module = execute_lightly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Make imports of a package fail inside the context, unless it is imported already."""
    if package in sys.modules:
        yield
        return
    modules = cast("dict[str, Any]", sys.modules)
    modules[package] = None
    try:
        yield
    finally:
        del modules[package]


@contextlib.contextmanager
def _compiling_when_called() -> Iterator[None]:
    """Make `torch.compile` as a decorator compile at the first call of the function."""
    torch: Any = importlib.import_module("torch")  # not at the top: every command line imports this module
    compile_now = torch.compile

    def compile_when_called(function: Any = None, /, **options: Any) -> Any:
        if function is None:  # a decorator with options
            return functools.partial(compile_when_called, **options)
        if not inspect.isfunction(function):
            return compile_now(function, **options)
        compiled: Callable[..., Any] | None = None

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal compiled
            if torch.compiler.is_compiling():  # called by a function that is being compiled: a part of it
                return function(*args, **kwargs)
            if compiled is None:
                compiled = compile_now(function, **options)
            return compiled(*args, **kwargs)

        return call

    torch.compile = compile_when_called
    try:
        yield
    finally:
        torch.compile = compile_now


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
