"""Optional packages of megatron-core: imported before it, and hidden from it if their import fails.

megatron-core imports each of them under `except ImportError`. An installation that is incomplete, or was built for
another torch or CUDA, raises other errors as well (Transformer Engine: RuntimeError, FileNotFoundError, AssertionError
and OSError). With them megatron-core itself can't be imported, even on CPUs, where it would not use the package.
This module can be removed when megatron-core handles every error of these imports.
"""

import functools
import importlib
import importlib.util
import sys
import warnings
from typing import Any, cast

USED: dict[str, tuple[str, ...]] = {
    "transformer_engine": (
        "transformer_engine.pytorch",
        "transformer_engine.pytorch.fp8",
        "transformer_engine.pytorch.optimizers",
    ),
    # apex without its CUDA extensions can be imported, but its norms and optimizers fail when they are constructed.
    "apex": (
        "apex.normalization.fused_layer_norm",
        "apex.optimizers",
        "apex.multi_tensor_apply",
        "amp_C",
        "fused_layer_norm_cuda",
    ),
    "fused_weight_gradient_mlp_cuda": ("fused_weight_gradient_mlp_cuda",),
}
"""Packages that a run uses, with the modules that must be importable."""

OTHERS = (
    "boto3",
    "deep_ep",
    "einops",
    "emerging_optimizers",
    "flash_attn",
    "flash_attn_3",
    "flash_mla",
    "flashattn_hopper",
    "flashinfer",
    "grouped_gemm",
    "multistorageclient",
    "nvidia_resiliency_ext",
    "nvtx",
    "torch_memory_saver",
    "triton",
)
"""Other packages that megatron-core imports; it handles their ImportError itself."""

_FIXES = {
    "transformer_engine": (
        "install it whole, for this torch and CUDA (pip install --no-build-isolation 'transformer-engine[pytorch]'), "
        "or uninstall it"
    ),
    "apex": "build it with its CUDA extensions for this torch, or uninstall it",
}


@functools.cache
def find_problems() -> dict[str, str]:
    """Import every installed optional package; return by package why it can't be used, and the fix.

    Later imports of a package with a problem fail in this process.
    """
    problems = {}
    for package in (*USED, *OTHERS):
        if not _is_installed(package):
            continue
        error = _try_import(USED.get(package, (package,)))
        if error is None or (package in OTHERS and isinstance(error, ImportError)):
            continue
        _hide(package)
        cause = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        fix = _FIXES.get(package, "reinstall it for this torch and CUDA, or uninstall it")
        problems[package] = f"{package} is installed but can't be imported ({cause}); {fix}"
    return problems


def is_usable(package: str) -> bool:
    """Return whether a package of `USED` is installed and can be imported."""
    return package not in find_problems() and _is_installed(package)


def _is_installed(package: str) -> bool:
    if package in sys.modules:
        # `None` marks a hidden package.
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None


def _try_import(modules: tuple[str, ...]) -> Exception | None:
    """Import modules; return the error if one fails."""
    try:
        # Extensions link against libraries that torch must load first.
        importlib.import_module("torch")
        with warnings.catch_warnings():
            # Transformer Engine warns before it fails; the problem is reported once, with the fix.
            warnings.simplefilter("ignore")
            for module in modules:
                importlib.import_module(module)
    except Exception as error:
        return error
    return None


def _hide(package: str) -> None:
    """Make later imports of a package fail as if it were not installed."""
    for name in list(sys.modules):
        if name == package or name.startswith(f"{package}."):
            del sys.modules[name]
    cast("dict[str, Any]", sys.modules)[package] = None
