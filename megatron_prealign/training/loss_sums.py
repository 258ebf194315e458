"""Losses by language, and at switched against ordinary positions: sums on the device, read once a record.

Shapes: B sequences of a microbatch, S tokens a sequence, L languages.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def masked_sum(losses: Tensor, loss_mask: Tensor) -> Tensor:
    """Sum the losses [B, S] of predicted positions, in fp32: scalar."""
    return (losses.float() * loss_mask).sum()


def grouped_sums(losses: Tensor, loss_mask: Tensor, loss_group: Tensor, num_languages: int) -> Tensor:
    """Sum losses and count positions by language and kind of position.

    Args:
        losses: [B, S].
        loss_mask: float32 [B, S], 1 where a position counts.
        loss_group: int16 [B, S], twice the number of the language, plus 1 at switched positions.
        num_languages: L.

    Returns:
        float64 [L, 2, 2]: ordinary and switched positions, of each the sum of its losses and its number.
    """
    # A sequence has one language: sums over positions first, then a small product in place of a scatter,
    # whose atomic additions on a GPU would come in another order every time.
    counted = torch.stack([losses.float() * loss_mask, loss_mask])
    switched = counted * (loss_group % 2)
    rows = torch.stack([(counted - switched).sum(-1), switched.sum(-1)]).double()  # [2, 2, B]
    languages = torch.arange(num_languages, device=losses.device)
    is_of = (loss_group[:, 0, None] // 2 == languages).double()  # [B, L]
    return (rows @ is_of).permute(2, 0, 1)


def describe_losses(sums: Tensor, languages: Sequence[str]) -> dict[str, Any]:
    """Return the mean losses in nats that `grouped_sums` [L, 2, 2] hold, without those of no position.

    Returns:
        lm_loss over all positions, if there are any; language_loss of each language; switched_loss and ordinary_loss
        where any position is switched.
    """
    sums = sums.cpu()  # what follows is read from the host's own memory
    total, count = sums.sum(dim=(0, 1)).tolist()
    record: dict[str, Any] = {"lm_loss": total / count} if count else {}
    by_language = zip(languages, sums.sum(dim=1).tolist(), strict=True)
    record["language_loss"] = {language: part / number for language, (part, number) in by_language if number}
    (ordinary, num_ordinary), (switched, num_switched) = sums.sum(dim=0).tolist()
    if num_switched:
        record["switched_loss"] = switched / num_switched
        record["ordinary_loss"] = ordinary / max(num_ordinary, 1)
    return record
