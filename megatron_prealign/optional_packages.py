"""Packages that megatron-core uses where it finds them: imported once, before it; one that fails counts as absent.

megatron-core imports each of them under `except ImportError`. An installation that is incomplete, or was built for
another torch or CUDA, raises other errors as well (Transformer Engine: RuntimeError, FileNotFoundError, AssertionError
and OSError), and these make megatron-core unimportable, also on CPUs, where the package would not be used. Can go when
megatron-core handles every error of these imports.
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
    # Without its CUDA extensions apex can be imported; its norms and optimizers then fail when they are built.
    "apex": (
        "apex.normalization.fused_layer_norm",
        "apex.optimizers",
        "apex.multi_tensor_apply",
        "amp_C",
        "fused_layer_norm_cuda",
    ),
    "fused_weight_gradient_mlp_cuda": ("fused_weight_gradient_mlp_cuda",),
}
"""What a run uses: the package, and the modules that must be importable for it to be of use."""

OTHERS = (
    "boto3",
    "deep_ep",
    "einops",
    "flash_attn",
    "flash_attn_3",
    "flash_mla",
    "flashattn_hopper",
    "flashinfer",
    "grouped_gemm",
    "multistorageclient",
    "nvtx",
    "torch_memory_saver",
    "triton",
)
"""What megatron-core imports beside; an ImportError of these it handles by itself."""

_FIXES = {
    "transformer_engine": (
        "install it whole, for this torch and CUDA (pip install --no-build-isolation 'transformer-engine[pytorch]'), "
        "or uninstall it"
    ),
    "apex": "build it with its CUDA extensions for this torch, or uninstall it",
}


@functools.cache
def find_problems() -> dict[str, str]:
    """Import every optional package that is installed; return by package why it can't be used, and how to fix that.

    A package with a problem is absent for everything that is imported later in this process.
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
    """Tell whether a package of `USED` is installed and can be imported."""
    return package not in find_problems() and _is_installed(package)


def _is_installed(package: str) -> bool:
    if package in sys.modules:
        # None stands there for a package that was hidden.
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None


def _try_import(modules: tuple[str, ...]) -> Exception | None:
    """Import modules; return why that failed."""
    try:
        # Extensions are linked against libraries that torch has to load first.
        importlib.import_module("torch")
        with warnings.catch_warnings():
            # Transformer Engine warns of what is missing before it fails; the problem is reported once, with the fix.
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
