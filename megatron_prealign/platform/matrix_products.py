"""Which library multiplies fp32 matrices on the CPU.

torch leaves them to MKL, which uses AVX-512 on Intel's CPUs alone. oneDNN, which torch ships too and leaves bf16 to,
uses it on AMD's as well: up to twice as fast there (benchmarks/matrix_products.py). All of it can go when torch chooses
by the CPU.
"""

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

# Multiplications of a product; for fewer, calling oneDNN costs more than it saves.
_FEWEST = 2**23
_for_good = contextlib.ExitStack()


def prefers_onednn() -> bool:
    """Tell whether this CPU multiplies large fp32 matrices faster through oneDNN: one of AMD's, with AVX-512."""
    return (
        cpu_vendor() == "AuthenticAMD"
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@functools.cache
def cpu_vendor() -> str:
    """Return what this CPU calls its maker; empty where the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"vendor_id\s*: (\S+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    return found[1] if found else ""


@contextlib.contextmanager
def products_through_onednn() -> Iterator[None]:
    """Take torch's large fp32 products to oneDNN inside the context."""
    mkl = torch.library.get_kernel("aten::mm", "CPU")
    linear = torch.ops.mkldnn._linear_pointwise.default

    def mm(keys: torch._C.DispatchKeySet, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if not _is_for_onednn(left, right):
            product: torch.Tensor = mkl.call_boxed(keys, left, right)
            return product
        # oneDNN wants its left matrix row by row and copies it else: copy the less, that matrix or the product.
        if left.is_contiguous() or left.numel() <= right.numel() + left.shape[0] * right.shape[1]:
            product = linear(left, right.t(), None, "none", [], "")
            return product
        product = linear(right.t(), left, None, "none", [], "")
        return product.t().contiguous()

    with torch.library._scoped_library("aten", "IMPL") as library:
        with warnings.catch_warnings():
            # That a kernel replaces torch's own is the intent.
            warnings.filterwarnings("ignore", "(?s).*[oO]verrid.*")
            library.impl("mm", mm, "CPU", with_keyset=True)
        yield


@functools.cache
def multiply_fast() -> None:
    """Take torch's large fp32 products to oneDNN in this process, where that is faster; a second call does nothing."""
    if prefers_onednn():
        _for_good.enter_context(products_through_onednn())


def _is_for_onednn(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Tell whether a product is large, of fp32, and of matrices that lie row by row or column by column."""
    return (
        left.numel() * right.shape[-1] >= _FEWEST
        and left.dtype is torch.float32
        and right.dtype is torch.float32
        and left.shape[-1] == right.shape[0]
        and all(matrix.is_contiguous() or matrix.t().is_contiguous() for matrix in (left, right))
    )
