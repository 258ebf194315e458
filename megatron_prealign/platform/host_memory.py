"""How the C library treats memory that tensors on the CPU let go of."""

import ctypes
from contextlib import suppress

# glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step; nothing happens where it is not glibc.

    It would give back every large tensor, and get its pages again from the kernel, zeroed one by one: logits alone are
    hundreds of megabytes a step.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)
