"""Symmetric multi-positive InfoNCE over a batch of words (design: every word is an anchor once).

With unit vectors u, groups g and temperature t, for each word i that has a positive:

    L_i = -1/|P(i)| sum_{j in P(i)} log( exp(u_i.u_j/t) / sum_{k in N(i)} exp(u_i.u_k/t) )

P(i) holds the other words of i's group; N(i) all other valid words except false negatives (same
surface form, or linked to i by the lexicon). PreAlign sec. 3.1 has one positive a word and no
exclusion; with one translation a word and no shared surface forms the two agree.

Shapes: A anchors (this rank's words), W words of the whole batch, H hidden.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class ContrastiveTargets:
    """Which words of a batch attract, repel or ignore each other.

    Attributes:
        groups: int64 [W], from 0 up; words of one group are positives of each other.
        valid: bool [W], false for padding.
        excluded: int64 [E, 2], pairs (i, k) where k stays out of i's denominator; both directions listed.
        start: first of this rank's anchors.
        stop: one past the last.
    """

    groups: Tensor
    valid: Tensor
    excluded: Tensor
    start: int
    stop: int

    @cached_property
    def num_anchors(self) -> Tensor:
        """Words of the whole batch that have a positive, at least 1: int64 scalar."""
        sizes = self.groups[self.valid].bincount()
        return sizes[sizes > 1].sum().clamp(min=1)


def _chunk_loss(vectors: Tensor, first: int, last: int, targets: ContrastiveTargets, temperature: float) -> Tensor:
    """Sum L_i over the anchors first..last-1 of the batch of unit vectors [W, H]."""
    rows = torch.arange(first, last, device=vectors.device)
    logits = vectors[first:last] @ vectors.T / temperature
    others = targets.valid[None, :] & (rows[:, None] != torch.arange(len(vectors), device=vectors.device)[None, :])
    positive = others & (targets.groups[first:last, None] == targets.groups[None, :]) & targets.valid[first:last, None]
    denominator = others.clone()
    anchors, candidates = targets.excluded.unbind(1)
    here = (anchors >= first) & (anchors < last)
    denominator[anchors[here] - first, candidates[here]] = False
    num_positives = positive.sum(dim=1)
    is_anchor = num_positives > 0
    log_normaliser = logits.masked_fill(~denominator, -torch.inf)[is_anchor].logsumexp(dim=1)
    attraction = logits.masked_fill(~positive, 0.0)[is_anchor].sum(dim=1) / num_positives[is_anchor]
    return (log_normaliser - attraction).sum()


def contrastive_loss(
    words: Tensor, targets: ContrastiveTargets, temperature: float, chunk_rows: int | None = None
) -> Tensor:
    """Sum the contrastive loss of this rank's anchors, over the number of anchors of the whole batch.

    The sum over ranks is the loss of the batch.

    Args:
        words: [W, H] word vectors of the whole batch, any length.
        targets: positives, exclusions and this rank's anchors.
        temperature: divides the cosine similarities.
        chunk_rows: anchors whose similarities [chunk_rows, W] are held at once; more are recomputed
            in the backward pass. None = all at once.

    Returns:
        fp32 scalar.
    """
    vectors = functional.normalize(words.float(), dim=1)
    step = chunk_rows or max(targets.stop - targets.start, 1)
    total = vectors.new_zeros(())
    for first in range(targets.start, targets.stop, step):
        last = min(first + step, targets.stop)
        if targets.stop - targets.start > step:
            total = total + checkpoint(_chunk_loss, vectors, first, last, targets, temperature, use_reentrant=False)
        else:
            total = total + _chunk_loss(vectors, first, last, targets, temperature)
    return total / targets.num_anchors
