"""What GPUs can do at most, by the name that the driver gives them."""

import re

_PEAK_TERAFLOPS: tuple[tuple[str, float], ...] = (
    # NVIDIA, from the data sheets; a figure with sparsity is halved.
    ("GB300", 2500),
    ("B300", 2250),
    ("GB200", 2500),
    ("B200", 2250),
    ("B100", 1750),
    ("H200 NVL", 835),
    ("H200", 989),
    ("GH200", 989),
    ("H100 NVL", 835),
    ("H100 PCIe", 756),
    ("H100", 989),
    ("H800", 989),
    ("H20", 148),
    ("A100", 312),
    ("A800", 312),
    ("A40", 149.7),
    ("A30", 165),
    ("A10", 125),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("V100", 125),
    ("T4", 65),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71),
    # AMD; of MI250X each half is a GPU of its own.
    ("MI355X", 2500),
    ("MI350X", 2300),
    ("MI325X", 1307),
    ("MI300X", 1307),
    ("MI300A", 981),
    ("MI250X", 191.5),
    ("MI250", 181),
    ("MI210", 181),
)
"""Words of a name, the more special before the general, and TFLOP/s in bf16 (fp16 where there is no bf16), dense."""


def peak_flops(device_name: str) -> float | None:
    """Return the dense 16-bit FLOP/s of a GPU at its peak; none for one that is not known, or a part (MIG) of one."""
    words = set(re.split(r"[^a-z0-9]+", device_name.lower()))
    if "mig" in words:
        return None
    for name, teraflops in _PEAK_TERAFLOPS:
        if words.issuperset(name.lower().split()):
            return teraflops * 1e12
    return None
