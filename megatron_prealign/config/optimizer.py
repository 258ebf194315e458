"""The optimizer section: AdamW and gradient clipping."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW as megatron-core runs it."""

    lr: float = 3e-4
    """Peak learning rate."""

    min_lr: float = 3e-5
    """Learning rate at the end of the decay."""

    weight_decay: float = 0.1
    """Decoupled weight decay; norms and biases are exempt."""

    adam_beta1: float = 0.9
    """Decay of the first moment."""

    adam_beta2: float = 0.95
    """Decay of the second moment."""

    adam_eps: float = 1e-8
    """Added to the root of the second moment."""

    clip_grad: float = 1.0
    """Largest global gradient norm; 0 = no clipping."""

    initial_loss_scale: float = 65536.0
    """What fp16 multiplies the loss by at first; halved after overflows, doubled after loss_scale_window good steps."""

    loss_scale_window: int = 1000
    """Steps without overflow before fp16's loss scale is doubled."""
