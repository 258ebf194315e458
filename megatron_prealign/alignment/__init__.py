"""The alignment loss of stage 1: taps, pooling, contrastive loss and its injection into the backward pass."""

from megatron_prealign.alignment.contrastive import ContrastiveTargets, contrastive_loss
from megatron_prealign.alignment.pooling import mean_pool
from megatron_prealign.alignment.taps import AlignmentTaps, WordMicrobatch, num_taps

__all__ = [
    "AlignmentTaps",
    "ContrastiveTargets",
    "WordMicrobatch",
    "contrastive_loss",
    "mean_pool",
    "num_taps",
]
