"""Symmetric multi-positive InfoNCE over a batch of items (design: every item is an anchor once).

With unit vectors u, groups g, temperature t and s_ij = u_i.u_j / t, for each item i that has a positive:

    L_i = -1/|P(i)| sum_{j in P(i)} log( exp(s_ij) / sum_{k in N(i)} exp(s_ik) )

P(i) holds the other items of i's group; N(i) all other items except false negatives (same surface
form, or linked to i by the lexicon). Words and sentences are items. PreAlign sec. 3.1 has one positive a
word and no exclusion; with one translation a word and no shared surface forms the two agree.

The loss computes its own gradient in the forward pass. P and N are symmetric, so the gradient of item i follows from
row i of s and the log-normalisers z of the other items:

    dL/du_i = 1/(t n) sum_j [ j in N(i) ] (exp(s_ij - z_i) + exp(s_ij - z_j)) u_j - 2/|P(i)| [ j in P(i) ] u_j

with n anchors, and exp(s_ij - z_j) = 0 if j is not an anchor. So ranks exchange vectors and one number per item but no
gradients, and no similarity is kept after the call.

Shapes: A items of this rank, W items of the whole batch, H hidden, P and E pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_BYTES_PER_SIMILARITY = 8  # the similarities of a chunk in fp32 and one temporary of their size


@dataclass(frozen=True)
class PairRows:
    """Pairs (i, j) of items, sorted by i, from which rows can be selected without waiting for the device.

    Attributes:
        firsts: int64 [P], on the device of the model.
        seconds: int64 [P], on the same device.
        offsets: the pairs of item i are those at offsets[i - start] : offsets[i - start + 1]; on the host.
        start: first item of this rank.
    """

    firsts: Tensor
    seconds: Tensor
    offsets: list[int]
    start: int

    @classmethod
    def build(cls, pairs: Tensor, start: int, stop: int, device: torch.device) -> "PairRows":
        """Build from int64 [P, 2] on the host, in any order; pairs whose i is another rank's are left out."""
        pairs = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < stop)]
        pairs = pairs[pairs[:, 0].argsort(stable=True)]
        offsets = torch.searchsorted(pairs[:, 0].contiguous(), torch.arange(start, stop + 1)).tolist()
        moved = pairs.T.contiguous().to(device, non_blocking=True)
        return cls(moved[0], moved[1], offsets, start)

    def cut(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return (i - first, j) of the pairs with i in first..last-1, both int64."""
        low, high = self.offsets[first - self.start], self.offsets[last - self.start]
        return self.firsts[low:high] - first, self.seconds[low:high]


@dataclass(frozen=True)
class ContrastiveTargets:
    """Which items of a batch attract and ignore each other; all others repel.

    Attributes:
        num_items: items of the whole batch, without the padding after them.
        num_anchors: items with a positive.
        start: first item of this rank.
        stop: one past the last, padding included.
        positives: pairs (i, j) of one group.
        left_out: pairs (i, k) where k is not in N(i), nor i in N(k); an item and itself among them.
        num_positives: int64 [stop - start], |P(i)| of this rank's items.
    """

    num_items: int
    num_anchors: int
    start: int
    stop: int
    positives: PairRows
    left_out: PairRows
    num_positives: Tensor

    @classmethod
    def build(
        cls, groups: Tensor, excluded: Tensor, start: int, stop: int, device: torch.device | str = "cpu"
    ) -> "ContrastiveTargets":
        """Build the targets of items start..stop-1.

        Args:
            groups: int64 [W], equal for translations of each other, negative for padding, which comes last.
            excluded: int64 [E, 2], false negatives, each in both directions; not an item and itself.
            start: first item of this rank.
            stop: one past the last.
            device: of the model.
        """
        device = torch.device(device)
        num_items = int((groups >= 0).sum())
        order = groups[:num_items].argsort(stable=True)
        _, sizes = torch.unique(groups[:num_items], return_counts=True)
        # All pairs inside a group, an item with itself included: position by position through the sorted items.
        own_size = sizes.repeat_interleave(sizes)
        group_start = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        firsts = order.repeat_interleave(own_size)
        within = torch.arange(len(firsts)) - (own_size.cumsum(0) - own_size).repeat_interleave(own_size)
        seconds = order[group_start.repeat_interleave(own_size) + within]
        positives = torch.stack([firsts, seconds], dim=1)[firsts != seconds]
        own = torch.arange(num_items)
        rows = PairRows.build(positives, start, stop, device)
        return cls(
            num_items=num_items,
            num_anchors=int(sizes[sizes > 1].sum()),
            start=start,
            stop=stop,
            positives=rows,
            left_out=PairRows.build(torch.cat([excluded, torch.stack([own, own], dim=1)]), start, stop, device),
            num_positives=torch.tensor(rows.offsets).diff().to(device, non_blocking=True),
        )


class _Similarities:
    """s of this rank's rows, one chunk of rows at a time; if one chunk suffices, it is computed once."""

    def __init__(self, items: Tensor, targets: ContrastiveTargets, temperature: float, memory_bytes: int) -> None:
        self._items, self._targets, self._temperature = items[: targets.num_items], targets, temperature
        self._step = max(memory_bytes // (_BYTES_PER_SIMILARITY * max(targets.num_items, 1)), 1)
        self._kept: Tensor | None = None
        stop = min(targets.stop, targets.num_items)
        self.chunks = [(first, min(first + self._step, stop)) for first in range(targets.start, stop, self._step)]

    def denominators(self, first: int, last: int) -> Tensor:
        """Return s_ij of rows first..last-1, -inf where j is not in N(i): [last - first, num_items]."""
        if self._kept is not None:
            return self._kept
        similarities = self._items[first:last] @ self._items.T
        similarities /= self._temperature
        similarities[self._targets.left_out.cut(first, last)] = -torch.inf
        if len(self.chunks) == 1:
            self._kept = similarities
        return similarities


def _log_normalisers(similarities: _Similarities, unit: Tensor, targets: ContrastiveTargets) -> Tensor:
    """Return z of this rank's items [A]; inf for items that are not anchors."""
    normalisers = unit.new_full((targets.stop - targets.start,), torch.inf)
    for first, last in similarities.chunks:
        chunk = similarities.denominators(first, last).logsumexp(dim=1)
        normalisers[first - targets.start : last - targets.start] = chunk
    return normalisers.masked_fill(targets.num_positives == 0, torch.inf)


def _gradient(
    similarities: _Similarities, items: Tensor, normalisers: Tensor, targets: ContrastiveTargets, temperature: float
) -> Tensor:
    """Return the gradient of the sum of all ranks' L_i with respect to this rank's unit vectors: [A, H]."""
    real = items[: targets.num_items]
    gradient = items.new_zeros((targets.stop - targets.start, items.shape[1]))
    shares = 2.0 / targets.num_positives.clamp(min=1).to(items.dtype)
    for first, last in similarities.chunks:
        similar = similarities.denominators(first, last)
        weights = (similar - normalisers[first:last, None]).exp_()
        weights += similar.sub_(normalisers[None, : targets.num_items]).exp_()
        rows, columns = targets.positives.cut(first, last)
        weights[rows, columns] -= shares[first - targets.start : last - targets.start][rows]
        gradient[first - targets.start : last - targets.start] = weights @ real
    return gradient / temperature


class _ContrastiveLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        unit: Tensor,
        targets: ContrastiveTargets,
        temperature: float,
        memory_bytes: int,
        gather: Callable[[Tensor], Tensor],
    ) -> Tensor:
        items = gather(unit)
        similarities = _Similarities(items, targets, temperature, memory_bytes)
        own = _log_normalisers(similarities, unit, targets)
        rows, columns = targets.positives.cut(targets.start, targets.stop)
        attraction = (unit[rows] * items[columns]).sum(dim=1) / temperature
        shares = targets.num_positives[rows].to(unit.dtype)
        total = own.masked_fill(targets.num_positives == 0, 0.0).sum() - (attraction / shares).sum()
        num_anchors = max(targets.num_anchors, 1)
        if ctx.needs_input_grad[0]:
            gradient = _gradient(similarities, items, gather(own), targets, temperature)
            ctx.save_for_backward(gradient / num_anchors)
        return total / num_anchors

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None, None


def contrastive_loss(
    items: Tensor,
    targets: ContrastiveTargets,
    temperature: float,
    *,
    memory_bytes: int = 2**29,
    gather: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Tensor:
    """Return the sum of the losses of this rank's items, divided by the number of anchors of the whole batch.

    The values of all ranks add up to the loss of the batch. The gradient of `items` is that of the whole batch's loss.

    Args:
        items: [A, H] vectors of this rank's items, any length; computed in fp32, or in fp64 if given so.
        targets: positives, exclusions and this rank's place in the batch.
        temperature: divides the cosine similarities.
        memory_bytes: bound on the similarities held at once; more rows are computed in chunks.
        gather: joins a tensor of each rank along the first axis, in rank order; no gradient passes through it.

    Returns:
        Scalar, fp32 or fp64 as computed.
    """
    precise = items if items.dtype == torch.float64 else items.float()
    unit = functional.normalize(precise, dim=1)
    loss: Tensor = _ContrastiveLoss.apply(unit, targets, temperature, memory_bytes, gather)  # type: ignore[no-untyped-call]
    return loss
