"""Stage 1, align-init: the contrastive alignment of word pairs beside language modelling (PreAlign sec. 3.1).

Shapes: W_r words of a microbatch on this rank, S subwords of the longest word, H hidden.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from megatron.core.utils import get_model_config
from torch import Tensor

from megatron_prealign.alignment import AlignmentTaps, ContrastiveTargets, WordMicrobatch
from megatron_prealign.config import AlignmentConfig
from megatron_prealign.data.sampler import Batch
from megatron_prealign.data.word_batches import WordBatch
from megatron_prealign.model import hidden_states_only
from megatron_prealign.training.language_modelling import LanguageModelling
from megatron_prealign.training.pretrain import take_lm_pass
from megatron_prealign.training.stage import Pass
from megatron_prealign.training.state import TrainState


class AlignInitStage:
    """A pass over words, whose losses are attached at every tap, then a language-modelling pass."""

    name = "align_init"

    def __init__(
        self,
        config: AlignmentConfig,
        chunks: list[torch.nn.Module],
        read_words: Callable[[int], WordBatch],
        batches: Iterator[list[Batch]],
        global_batch_size: int,
        device: torch.device,
    ) -> None:
        """Read word microbatch number i of the run from `read_words(i)`, sequences from `batches`."""
        self._config = config
        self._device = device
        self._read_words = read_words
        self._batches = batches
        self._global_batch_size = global_batch_size
        self._language_modelling = LanguageModelling(device, config.lm_weight)
        self._taps = AlignmentTaps(chunks, config.temperature, config.similarity_chunk_rows)
        self._scale_loss = get_model_config(chunks[0]).grad_scale_func or (lambda loss: loss)
        self._num_word_microbatches = 0

    def next_passes(self, state: TrainState) -> list[Pass]:
        """Draw one step's words, then its sequences."""
        passes = [self._word_pass(state)]
        if self._config.lm_weight > 0:
            passes.append(take_lm_pass(self._batches, self._language_modelling, self._global_batch_size, state))
        return passes

    def _word_pass(self, state: TrainState) -> Pass:
        count = self._config.num_word_microbatches
        batches = [self._read_words(state.word_microbatches + index) for index in range(count)]
        state.word_microbatches += count
        state.word_tokens += sum(batch.num_tokens for batch in batches)
        self._num_word_microbatches += count
        seq_length = max(batch.token_ids.shape[1] for batch in batches)
        words = [to_word_microbatch(batch, seq_length, self._device) for batch in batches]
        return Pass(self._forward_step, words, seq_length, words[0].token_ids.shape[0])

    def _forward_step(
        self, batches: Iterator[WordMicrobatch], chunk: torch.nn.Module
    ) -> tuple[Tensor, "Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]"]:
        words = next(batches)
        position_ids = torch.arange(words.token_ids.shape[1], device=self._device).expand_as(words.token_ids)
        weight = self._config.alignment_weight / (self._taps.num_taps * self._config.num_word_microbatches)
        scale = self._scale_loss(torch.tensor(weight, device=self._device))
        with hidden_states_only(chunk), self._taps.attached(words, scale):
            return chunk(words.token_ids, position_ids, None), _no_loss

    def take_metrics(self) -> dict[str, Any]:
        """Return lm_loss, alignment_loss (mean over taps) and tap_loss, averaged over microbatches."""
        losses = self._taps.take_losses() / max(self._num_word_microbatches, 1)
        self._num_word_microbatches = 0
        metrics: dict[str, Any] = {"alignment_loss": float(losses.mean()), "tap_loss": losses.tolist()}
        if self._config.lm_weight > 0:
            metrics = {"lm_loss": self._language_modelling.take_loss(), **metrics}
        return metrics


def _no_loss(hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Start the backward pass without a loss of its own: the losses hang on the taps."""
    return (hidden * 0.0).sum(), {}


def to_word_microbatch(batch: WordBatch, seq_length: int, device: torch.device) -> WordMicrobatch:
    """Move a word batch to the device, padded to `seq_length` subwords."""
    pad = partial(torch.nn.functional.pad, pad=(0, seq_length - batch.token_ids.shape[1]))
    return WordMicrobatch(
        token_ids=pad(torch.from_numpy(batch.token_ids)).to(device),
        mask=pad(torch.from_numpy(batch.mask)).to(device),
        targets=ContrastiveTargets(
            groups=torch.from_numpy(batch.group_ids).to(device),
            valid=torch.from_numpy(batch.valid).to(device),
            excluded=torch.from_numpy(batch.excluded_pairs).to(device),
            start=batch.start,
            stop=batch.stop,
        ),
    )
