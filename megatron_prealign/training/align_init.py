"""Stage 1, align-init: the contrastive alignment of words beside language modelling (PreAlign sec. 3.1)."""

from typing import Any

from megatron_prealign.config import Config
from megatron_prealign.training.language_modelling import LanguageModelling
from megatron_prealign.training.sequences import Sequences
from megatron_prealign.training.stage import Pass
from megatron_prealign.training.state import TrainState
from megatron_prealign.training.step_losses import StepLosses
from megatron_prealign.training.word_pass import WordPasses


class AlignInitStage:
    """A word pass, then a language-modelling pass."""

    name = "align_init"

    def __init__(
        self,
        config: Config,
        words: WordPasses,
        sequences: Sequences,
        language_modelling: LanguageModelling,
    ) -> None:
        """Take word passes from `words`, the microbatches of one step after the other from `sequences`."""
        self._config = config.alignment
        self._words = words
        self._sequences = sequences
        self._language_modelling = language_modelling
        self.step_losses = StepLosses(language_modelling, words)

    def next_passes(self, state: TrainState) -> list[Pass]:
        """Draw one step's words, then its sequences."""
        passes = [self._words.make_pass(state, self._config.alignment_weight)]
        if self._config.lm_weight > 0:
            passes.append(self._language_modelling.make_pass(self._sequences.take(state)))
        return passes

    def take_metrics(self) -> dict[str, Any]:
        """Return the losses of language modelling, and the metrics of the word passes."""
        if self._config.lm_weight == 0:
            return self._words.take_metrics()
        return {**self._language_modelling.take_losses(), **self._words.take_metrics()}
