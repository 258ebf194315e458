"""The alignment loss of stage 1: taps, pooling, contrastive loss and its injection into the backward pass."""

from megatron_prealign.alignment.contrastive import ContrastiveTargets, contrastive_loss
from megatron_prealign.alignment.loss import AlignmentLoss, gather_ranks
from megatron_prealign.alignment.pooling import mean_pool
from megatron_prealign.alignment.taps import Taps, WordMicrobatch

__all__ = [
    "AlignmentLoss",
    "ContrastiveTargets",
    "Taps",
    "WordMicrobatch",
    "contrastive_loss",
    "gather_ranks",
    "mean_pool",
]
