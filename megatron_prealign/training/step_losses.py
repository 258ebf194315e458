"""The losses of one step, before it is known whether the step counts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_prealign.training.language_modelling import LanguageModelling
from megatron_prealign.training.word_pass import WordPasses


@dataclass(frozen=True)
class StepLosses:
    """What a stage's losses were in its last step, on this rank."""

    language_modelling: LanguageModelling
    words: WordPasses | None

    def sums(self) -> Tensor:
        """Return float64 [3]: the sum of language-modelling losses, their number, the sum of alignment losses."""
        losses = self.language_modelling.step_losses()
        alignment = losses.new_zeros(()) if self.words is None else self.words.loss.step_loss()
        return torch.cat([losses, alignment[None]])

    def problems(self) -> list[str]:
        """Return what this rank knows to be wrong with them."""
        return [] if self.words is None else self.words.loss.step_problems()

    def drop(self) -> None:
        """Leave them out of the record."""
        self.language_modelling.drop_step()
        if self.words is not None:
            self.words.loss.drop_step()
