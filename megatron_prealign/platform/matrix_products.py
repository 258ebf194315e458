"""Which library multiplies fp32 matrices on the CPU.

torch uses MKL, which uses AVX-512 on Intel's CPUs only. oneDNN, which torch includes and uses for bf16, uses it on
AMD's too, up to twice as fast (benchmarks/matrix_products.py). All of this can go when torch chooses by the CPU.
"""

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

# Multiplications in a product, below which calling oneDNN costs more than it saves.
_FEWEST = 2**23
_for_good = contextlib.ExitStack()


def prefers_onednn() -> bool:
    """Return whether oneDNN multiplies large fp32 matrices faster on this CPU: an AMD with AVX-512."""
    return (
        cpu_vendor() == "AuthenticAMD"
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@functools.cache
def cpu_vendor() -> str:
    """Return the CPU's vendor id; empty if the system does not provide it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"vendor_id\s*: (\S+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    return found[1] if found else ""


@contextlib.contextmanager
def products_through_onednn() -> Iterator[None]:
    """Compute torch's large fp32 products with oneDNN inside the context."""
    mkl = torch.library.get_kernel("aten::mm", "CPU")
    linear = torch.ops.mkldnn._linear_pointwise.default

    def mm(keys: torch._C.DispatchKeySet, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if not _is_for_onednn(left, right):
            product: torch.Tensor = mkl.call_boxed(keys, left, right)
            return product
        # oneDNN copies a left matrix that is not in row order: copy the smaller one, that matrix or the product.
        if left.is_contiguous() or left.numel() <= right.numel() + left.shape[0] * right.shape[1]:
            product = linear(left, right.t(), None, "none", [], "")
            return product
        product = linear(right.t(), left, None, "none", [], "")
        return product.t().contiguous()

    with torch.library._scoped_library("aten", "IMPL") as library:
        with warnings.catch_warnings():
            # The warning is that a kernel of torch is replaced.
            warnings.filterwarnings("ignore", "(?s).*[oO]verrid.*")
            library.impl("mm", mm, "CPU", with_keyset=True)
        yield


@functools.cache
def multiply_fast() -> None:
    """Compute torch's large fp32 products with oneDNN in this process if that is faster; a second call does nothing."""
    if prefers_onednn():
        _for_good.enter_context(products_through_onednn())


def _is_for_onednn(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Return whether a product is large, of fp32, and of matrices in row or column order."""
    return (
        left.numel() * right.shape[-1] >= _FEWEST
        and left.dtype is torch.float32
        and right.dtype is torch.float32
        and left.shape[-1] == right.shape[0]
        and all(matrix.is_contiguous() or matrix.t().is_contiguous() for matrix in (left, right))
    )
