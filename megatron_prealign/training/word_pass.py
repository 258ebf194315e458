"""The word pass: words packed into rows, whose alignment loss is attached at every tap.

Shapes: R rows of packed words, S positions of a row, H hidden.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core.utils import get_model_config
from torch import Tensor

from megatron_prealign.alignment import AlignmentLoss, ContrastiveTargets, Taps, WordMicrobatch
from megatron_prealign.config import Config
from megatron_prealign.config.taps import tap_weights
from megatron_prealign.model import hidden_states_only, segment_mask
from megatron_prealign.pairs.batches import WordBatch, WordBatches
from megatron_prealign.pairs.packing import PackedWords
from megatron_prealign.platform import Mesh
from megatron_prealign.training.stage import Pass, sum_over_ranks
from megatron_prealign.training.state import TrainState
from megatron_prealign.training.throughput import Stopwatch


class WordPasses:
    """Makes passes over the lexicon's words, and averages their losses."""

    def __init__(
        self,
        config: Config,
        chunks: list[torch.nn.Module],
        taps: Taps,
        words: WordBatches,
        mesh: Mesh,
        waiting: Stopwatch,
    ) -> None:
        """Read the word microbatches of this data-parallel rank from `words`, timed by `waiting`."""
        alignment = config.alignment
        self._words = words
        self._mesh = mesh
        self._waiting = waiting
        self._device = taps.device
        self._count = alignment.num_word_microbatches
        weights = tap_weights(alignment.taps, taps.num_layers, tied=taps.tied)
        self.loss = AlignmentLoss(taps, weights, alignment.temperature, alignment.similarity_memory_mib * 2**20)
        self._scale_loss = get_model_config(chunks[0]).grad_scale_func or (lambda loss: loss)
        self._positions = torch.zeros(2, dtype=torch.int64)

    def make_pass(self, state: TrainState, weight: float) -> Pass:
        """Return one step's pass, its loss times `weight`, and advance `state` past its words."""
        mesh = self._mesh
        with self._waiting.running():
            batches = self._words.batches(
                state.word_microbatches, self._count, rank=mesh.data.rank, size=mesh.data.size
            )
        state.word_microbatches += self._count
        state.word_tokens += sum(batch.num_tokens for batch in batches)
        self.loss.begin_step(self._count)
        for batch in batches:
            is_padding = batch.packed.word_index < 0
            self._positions += torch.tensor([is_padding.sum(), is_padding.size])
        microbatches = [self._to_microbatch(batch) for batch in batches]
        num_rows, row_length = microbatches[0].token_ids.shape
        scale = self._scale_loss(torch.tensor(weight / self._count, device=self._device))

        def forward_step(
            words: Iterator[WordMicrobatch], chunk: torch.nn.Module
        ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]]:
            microbatch = next(words)
            with self.loss.attached(microbatch, scale):
                return run_words(chunk, microbatch), no_loss

        return Pass(forward_step, microbatches, row_length, num_rows)

    def _to_microbatch(self, batch: WordBatch) -> WordMicrobatch:
        targets = ContrastiveTargets.build(
            torch.from_numpy(batch.group_ids),
            torch.from_numpy(batch.excluded_pairs),
            batch.start,
            batch.stop,
            self._device,
        )
        return to_microbatch(batch.packed, batch.stop - batch.start, self._device, targets)

    def take_metrics(self) -> dict[str, Any]:
        """Return alignment_loss (weighted mean over taps), tap_loss by tap and word_padding_ratio since the last call.

        Losses are averaged over microbatches; empty where there were none; a collective.
        """
        losses = self.loss.take_losses()
        if not losses:
            return {}
        padding, computed = sum_over_ranks(self._positions.to(self._device)).tolist()
        self._positions.zero_()
        return {
            "alignment_loss": self.loss.mean(losses),
            "tap_loss": losses,
            "word_padding_ratio": padding / computed,
        }


def to_microbatch(
    packed: PackedWords, num_words: int, device: torch.device, targets: ContrastiveTargets | None = None
) -> WordMicrobatch:
    """Move packed words to the device."""
    return WordMicrobatch(
        token_ids=torch.from_numpy(packed.token_ids).to(device, non_blocking=True),
        position_ids=torch.from_numpy(packed.position_ids).to(device, non_blocking=True),
        word_index=torch.from_numpy(packed.word_index).to(device, non_blocking=True),
        num_words=num_words,
        targets=targets,
    )


def run_words(chunk: torch.nn.Module, words: WordMicrobatch) -> Tensor:
    """Run a model chunk over packed words, each seeing itself alone; return the hidden states [S, R, H]."""
    with hidden_states_only(chunk):
        hidden: Tensor = chunk(words.token_ids, words.position_ids, segment_mask(words.word_index))
    return hidden


def no_loss(hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Start the backward pass without a loss of its own: the losses hang on the taps."""
    return (hidden * 0.0).sum(), {}
