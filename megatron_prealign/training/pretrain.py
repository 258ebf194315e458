"""Stage 2, pretrain: next-token prediction over code-switched input."""

from collections.abc import Iterator
from typing import Any

import torch

from megatron_prealign.data.sampler import Batch
from megatron_prealign.training.language_modelling import LanguageModelling
from megatron_prealign.training.stage import Pass
from megatron_prealign.training.state import TrainState


class PretrainStage:
    """One language-modelling pass a step."""

    name = "pretrain"

    def __init__(self, batches: Iterator[list[Batch]], global_batch_size: int, device: torch.device) -> None:
        """Read the microbatches of one step after the other from `batches`."""
        self._batches = batches
        self._global_batch_size = global_batch_size
        self._language_modelling = LanguageModelling(device)

    def next_passes(self, state: TrainState) -> list[Pass]:
        """Draw one step's sequences."""
        return [take_lm_pass(self._batches, self._language_modelling, self._global_batch_size, state)]

    def take_metrics(self) -> dict[str, Any]:
        """Return lm_loss, in nats a token."""
        return {"lm_loss": self._language_modelling.take_loss()}


def take_lm_pass(
    batches: Iterator[list[Batch]], language_modelling: LanguageModelling, global_batch_size: int, state: TrainState
) -> Pass:
    """Draw the language-modelling pass of one step and advance `state` past its sequences."""
    lm_pass = language_modelling.make_pass(next(batches))
    state.consumed_samples += global_batch_size
    state.lm_tokens += global_batch_size * lm_pass.seq_length
    return lm_pass
