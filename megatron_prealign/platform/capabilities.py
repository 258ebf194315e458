"""Which fused packages this process can use, and which mistakes of megatron-core its version still makes."""

import megatron.core
from packaging.version import Version

from megatron_prealign import optional_packages


def has_transformer_engine() -> bool:
    """Tell whether Transformer Engine with its PyTorch extension is installed and can be imported."""
    return optional_packages.is_usable("transformer_engine")


def has_apex() -> bool:
    """Tell whether apex with its fused norms and optimizers is installed and can be imported."""
    return optional_packages.is_usable("apex")


def has_gradient_accumulation_fusion() -> bool:
    """Tell whether apex's fused weight-gradient kernel is installed and can be imported."""
    return optional_packages.is_usable("fused_weight_gradient_mlp_cuda")


def package_problem(package: str) -> str | None:
    """Return why an installed package can't be used, and the fix; none where it can, or is not installed."""
    return optional_packages.find_problems().get(package)


def package_problems() -> list[str]:
    """Return of each installed package that can't be used why, and the fix."""
    return [*optional_packages.find_problems().values()]


def can_free_sent_outputs(interleaved: bool) -> bool:
    """Tell whether a pipeline stage on GPUs may free an output as soon as it was handed over for sending.

    Interleaved schedules send beside the computation (`overlap_p2p_comm`), and megatron-core before 0.18.2 frees the
    output while NCCL may still read it (its PR 4047). Can go when pyproject.toml asks for 0.18.2.
    """
    return not interleaved or Version(megatron.core.__version__) >= Version("0.18.2")
