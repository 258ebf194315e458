"""megatron-core's GPTModel with the logits of padded vocabulary rows masked.

Shapes: S sequence, B batch, V vocabulary rows of this tensor-parallel rank.
"""

from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor


class PrealignGPTModel(GPTModel):  # type: ignore[misc]
    """GPTModel whose loss ignores vocabulary rows that exist only as padding.

    With the padding masked, the loss depends on the tokenizer's vocabulary alone, and padded rows
    never receive a gradient.
    """

    def __init__(self, *args: Any, num_tokens: int, **kwargs: Any) -> None:
        """Take GPTModel's arguments and the vocabulary size before padding, in tokens."""
        super().__init__(*args, **kwargs)
        self.num_tokens = num_tokens

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return the cross entropy [B, S] of logits [S, B, V] for labels [B, S]; overwrites padded logits."""
        rows = logits.size(-1)
        first_row = self.pg_collection.tp.rank() * rows
        num_real = min(max(self.num_tokens - first_row, 0), rows)
        if num_real < rows:
            logits[..., num_real:] = torch.finfo(logits.dtype).min
        loss: Tensor = super().compute_language_model_loss(labels, logits)
        return loss
