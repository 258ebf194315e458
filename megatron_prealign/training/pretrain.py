"""Stage 2, pretrain: next-token prediction over code-switched input; the alignment loss now and then, if asked for."""

import math
from collections.abc import Callable
from typing import Any

from megatron_prealign.config import Config
from megatron_prealign.training.language_modelling import LanguageModelling
from megatron_prealign.training.sequences import Sequences
from megatron_prealign.training.stage import Pass
from megatron_prealign.training.state import TrainState
from megatron_prealign.training.step_losses import StepLosses
from megatron_prealign.training.word_pass import WordPasses

_DECAY: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


class PretrainStage:
    """One language-modelling pass a step, before it a word pass in every `alignment.maintain_interval`-th step."""

    name = "pretrain"

    def __init__(
        self,
        config: Config,
        words: WordPasses | None,
        sequences: Sequences,
        language_modelling: LanguageModelling,
    ) -> None:
        """Read the microbatches of one step after the other from `sequences`; without `words` no alignment."""
        self._config = config
        self._words = words
        self._sequences = sequences
        self._language_modelling = language_modelling
        self.step_losses = StepLosses(language_modelling, words)

    def next_passes(self, state: TrainState) -> list[Pass]:
        """Draw one step's words, if it is their turn, then its sequences."""
        alignment, training = self._config.alignment, self._config.training
        passes = []
        if self._words is not None:
            self._words.loss.begin_step()
            if state.step % alignment.maintain_interval == 0:
                share = _DECAY[alignment.maintain_decay](state.step / training.train_steps)
                passes.append(self._words.make_pass(state, alignment.maintain_weight * share))
        passes.append(self._language_modelling.make_pass(self._sequences.take(state)))
        return passes

    def take_metrics(self) -> dict[str, Any]:
        """Return the losses of language modelling, and the metrics of the word passes, if there were any."""
        words = {} if self._words is None else self._words.take_metrics()
        return {**self._language_modelling.take_losses(), **words}
