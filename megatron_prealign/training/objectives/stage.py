"""A stage of training: the configured objectives, each with a weight that is a function of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megatron_prealign.config import Config
from megatron_prealign.config.alignment_validation import aligns_sentences, aligns_words
from megatron_prealign.errors import PrealignError
from megatron_prealign.lexicon import Lexicon
from megatron_prealign.pairs.batches import ItemBatches
from megatron_prealign.pairs.sentences import SentenceBatches, SentenceTable, read_aligned
from megatron_prealign.pairs.words import WordBatches, WordTable
from megatron_prealign.text.tokenizer import Tokenizer
from megatron_prealign.training.objectives.alignment import AlignmentPlan
from megatron_prealign.training.objectives.language_modelling import LanguageModellingPlan
from megatron_prealign.training.objectives.objective import Objective, ObjectivePlan, Pass
from megatron_prealign.training.objectives.sequences import find_datasets
from megatron_prealign.training.state import TrainState

Weight = Callable[[int], float | None]
"""From the steps done to an objective's weight in the next one; None = it takes no part in that step."""

_DECAY: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


def plan_objectives(
    config: Config, tokenizer: Tokenizer, lexicon: Lexicon | None
) -> tuple[list[tuple[ObjectivePlan, Weight]], list[str]]:
    """Return the objectives of the configured stage in the order of their passes, and the problems of their data.

    Stage 1 aligns words or sentences together with language modelling (PreAlign sec. 3.1). Stage 2 is language
    modelling over code-switched input, with steps of alignment at intervals if configured.
    """
    alignment = config.alignment
    plans: list[tuple[ObjectivePlan, Weight]] = []
    datasets, problems = find_datasets(config, tokenizer)
    try:
        if aligns_words(config) and lexicon is not None:
            weight = _alignment_weight(config, alignment.alignment_weight, alignment.maintain_weight)
            plans.append((AlignmentPlan(config, _words(config, tokenizer, lexicon)), weight))
        if aligns_sentences(config):
            weight = _alignment_weight(config, alignment.sentence_weight, alignment.sentence_weight)
            plans.append((AlignmentPlan(config, _sentences(config, tokenizer)), weight))
    except PrealignError as error:
        problems += error.problems
    if datasets:
        lm_weight = 1.0 if config.training.stage == "pretrain" else alignment.lm_weight or None
        plans.append((LanguageModellingPlan(config, tokenizer, datasets), lambda _: lm_weight))
    return plans, problems


def _words(config: Config, tokenizer: Tokenizer, lexicon: Lexicon) -> ItemBatches:
    alignment = config.alignment
    return WordBatches(
        WordTable.build(lexicon, tokenizer, alignment.max_word_tokens),
        config.training.seed,
        alignment.word_batch_size,
        row_length=alignment.word_row_length,
        num_hard_negatives=alignment.num_hard_negatives,
    )


def _sentences(config: Config, tokenizer: Tokenizer) -> ItemBatches:
    alignment = config.alignment
    return SentenceBatches(
        SentenceTable.build(read_aligned(alignment.sentence_paths), tokenizer, alignment.max_sentence_tokens),
        config.training.seed,
        alignment.sentence_batch_size,
        row_length=alignment.max_sentence_tokens,
    )


def _alignment_weight(config: Config, in_stage_1: float, in_stage_2: float) -> Weight:
    """Return a weight that is constant in stage 1, and in stage 2 applies at intervals and decays."""
    if config.training.stage == "align_init":
        return lambda _: in_stage_1
    interval, num_steps = config.alignment.maintain_interval, config.training.train_steps
    decay = _DECAY[config.alignment.maintain_decay]
    return lambda step: None if step % interval else in_stage_2 * decay(step / num_steps)


@dataclass
class Stage:
    """The objectives of a stage; gradients of all their passes in a step add up."""

    name: str
    parts: list[tuple[Objective, Weight]]

    def next_passes(self, state: TrainState) -> list[Pass]:
        """Draw the passes of the next optimizer step and advance `state` past their data."""
        return [one for objective, weight in self.parts for one in objective.make_passes(state, weight(state.step))]

    def reaches_all_parameters(self, step: int) -> bool:
        """Return whether the step after `step` gives every parameter a gradient."""
        return any(objective.reaches_all_parameters and weight(step) is not None for objective, weight in self.parts)

    def step_sums(self) -> Tensor:
        """Return what `Objective.step_sums` does, of each objective: float64 [objectives, 2]."""
        return torch.stack([objective.step_sums() for objective, _ in self.parts])

    def step_problems(self) -> list[str]:
        """Return the problems of the last step that this rank sees."""
        return [problem for objective, _ in self.parts for problem in objective.step_problems()]

    def drop_step(self) -> None:
        """Leave the last step out of the metrics."""
        for objective, _ in self.parts:
            objective.drop_step()

    def take_metrics(self) -> dict[str, Any]:
        """Return the metrics of all objectives since the last call, equal on all ranks; collective."""
        return {
            name: value for objective, _ in reversed(self.parts) for name, value in objective.take_metrics().items()
        }
