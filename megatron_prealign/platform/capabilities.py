"""Which fused packages this process can use."""

import importlib.util


def has_transformer_engine() -> bool:
    """Tell whether Transformer Engine's PyTorch extension is installed."""
    return (
        importlib.util.find_spec("transformer_engine") is not None
        and importlib.util.find_spec("transformer_engine.pytorch") is not None
    )


def has_apex() -> bool:
    """Tell whether apex with its fused norms is installed."""
    return importlib.util.find_spec("apex") is not None and importlib.util.find_spec("apex.normalization") is not None


def has_gradient_accumulation_fusion() -> bool:
    """Tell whether apex's fused weight-gradient kernel is installed."""
    return importlib.util.find_spec("fused_weight_gradient_mlp_cuda") is not None
