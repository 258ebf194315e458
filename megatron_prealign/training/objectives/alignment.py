"""Alignment of groups: translations packed into rows, their contrastive loss attached at every tap.

Shapes: R rows of packed items, S positions of a row, H hidden.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from megatron.core.utils import get_model_config
from torch import Tensor

from megatron_prealign.alignment import AlignmentLoss, ContrastiveTargets, ItemMicrobatch
from megatron_prealign.config import Config
from megatron_prealign.config.alignment import tap_weights
from megatron_prealign.config.alignment_validation import has_alignment_loss, measures_retrieval
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.model import hidden_states_only, segment_mask
from megatron_prealign.pairs.batches import ItemBatch, ItemBatches, PackedItems
from megatron_prealign.training.objectives.objective import Pass, Surroundings, sum_over_ranks
from megatron_prealign.training.state import TrainState


class Alignment:
    """The objective: one pass over the next groups, with a loss at each tap."""

    reaches_all_parameters = False

    def __init__(self, config: Config, items: ItemBatches, surroundings: Surroundings) -> None:
        """Read the microbatches of this data-parallel rank from `items`."""
        alignment, taps = config.alignment, surroundings.taps()
        self._items = items
        self._mesh = surroundings.mesh
        self._waiting = surroundings.waiting
        self._device = surroundings.device
        self._count = getattr(alignment, f"num_{items.kind}_microbatches")
        weights = tap_weights(alignment.taps, taps.num_layers, tied=taps.tied)
        self._loss = AlignmentLoss(taps, weights, alignment.temperature, alignment.similarity_memory_mib * 2**20)
        self._scale_loss = get_model_config(surroundings.chunks[0]).grad_scale_func or (lambda loss: loss)
        self._positions = torch.zeros(2, dtype=torch.int64)

    def make_passes(self, state: TrainState, weight: float | None) -> list[Pass]:
        """Return the pass over the next microbatches of items."""
        if weight is None:
            self._loss.begin_step()
            return []
        with self._waiting.running():
            first = state.count_items(self._items.kind, self._count)
            data, on_gpu = self._mesh.data, self._device.type == "cuda"
            batches = self._items.batches(first, self._count, rank=data.rank, size=data.size, few_shapes=on_gpu)
        state.count_items(self._items.kind, num_tokens=sum(batch.num_tokens for batch in batches))
        self._loss.begin_step(self._count)
        for batch in batches:
            is_padding = batch.packed.item_index < 0
            self._positions += torch.tensor([is_padding.sum(), is_padding.size])
        microbatches = [self._to_microbatch(batch) for batch in batches]
        num_rows, row_length = microbatches[0].token_ids.shape
        scale = self._scale_loss(torch.full((), weight / self._count, device=self._device))

        def forward_step(
            items: Iterator[ItemMicrobatch], chunk: torch.nn.Module
        ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]]:
            microbatch = next(items)
            with self._loss.attached(microbatch, scale):
                return run_items(chunk, microbatch), no_loss

        return [Pass(forward_step, microbatches, row_length, num_rows)]

    def _to_microbatch(self, batch: ItemBatch) -> ItemMicrobatch:
        targets = ContrastiveTargets.build(
            torch.from_numpy(batch.group_ids),
            torch.from_numpy(batch.excluded_pairs),
            batch.start,
            batch.stop,
            self._device,
        )
        return to_microbatch(batch.packed, batch.stop - batch.start, self._device, targets)

    def step_sums(self) -> Tensor:
        """Return the sum of this rank's losses in the last step and 0 predictions: float64 [2]."""
        loss = self._loss.step_loss()
        return torch.stack([loss, loss.new_zeros(())])

    def step_problems(self) -> list[str]:
        """Return at which taps of this rank the last step's losses are not finite."""
        return self._loss.step_problems()

    def drop_step(self) -> None:
        """Forget the losses of the last step."""
        self._loss.drop_step()

    def take_metrics(self) -> dict[str, Any]:
        """Return alignment_loss (weighted mean over taps), tap_loss by tap and word_padding_ratio since the last call.

        The names of sentences begin with sentence_. Losses are averaged over microbatches; empty if there were none;
        collective.
        """
        losses = self._loss.take_losses()
        if not losses:
            return {}
        padding, computed = sum_over_ranks(self._positions.to(self._device)).tolist()
        self._positions.zero_()
        prefix = "" if self._items.kind == "word" else f"{self._items.kind}_"
        return {
            f"{prefix}alignment_loss": self._loss.mean(losses),
            f"{prefix}tap_loss": losses,
            f"{self._items.kind}_padding_ratio": padding / computed,
        }


@dataclass(frozen=True)
class AlignmentPlan:
    """The items to align, and the objective over them."""

    config: Config
    items: ItemBatches

    def resume_problems(self, state: TrainState, checkpoint: Path | None) -> list[str]:
        """Return why a run can't continue with its items: the next groups depend on all of them."""
        own = self.items.fingerprint
        saved = replace(state).note_items(self.items.kind, own)
        if saved in ("", own):
            return []
        name = "lexicon" if self.items.kind == "word" else f"set of {self.items.kind}s"
        return [
            f"{self.items.option}: {checkpoint} was trained on another {name} (fingerprint {saved[:12]}, this run "
            f"has {own[:12]}); restore it, or start a new run with checkpoint.init_from"
        ]

    def describe(self, _: TrainState) -> str:
        """Describe the files of items."""
        return self.items.describe()

    def build(self, state: TrainState, surroundings: Surroundings) -> Alignment:
        """Build the objective, and note its items in `state`."""
        state.note_items(self.items.kind, self.items.fingerprint)
        return Alignment(self.config, self.items, surroundings)


def read_lexicons(config: Config) -> dict[str, Lexicon]:
    """Read those of the lexicons "trained" and "held_out" that the run needs.

    Raises:
        DataError: a lexicon can't be read or translates into its own language, or all held-out words are trained on.
    """
    alignment = config.alignment
    if not has_alignment_loss(config) and not measures_retrieval(config):
        return {}
    paths = {"trained": alignment.lexicon_paths, "held_out": alignment.held_out_lexicon_paths}
    lexicons = {
        name: read_lexicon(files, source_language=alignment.source_language, target_language=alignment.target_language)
        for name, files in paths.items()
        if files
    }
    problems = [
        f"{', '.join(paths[name])}: translations into {lexicon.source_language}, which is alignment.source_language; "
        "correct the languages of the file, or alignment.source_language and alignment.target_language"
        for name, lexicon in lexicons.items()
        if lexicon.source_language in lexicon.languages
    ]
    words = [{entry.word for entry in lexicon.entries} for lexicon in lexicons.values()]
    if len(words) == 2 and words[1] <= words[0]:
        problems.append(
            f"{', '.join(paths['held_out'])}: every word is also trained on; hold some out with "
            "tools/build_lexicon.py --held-out-ratio"
        )
    if problems:
        raise DataError(problems)
    return lexicons


def to_microbatch(
    packed: PackedItems, num_items: int, device: torch.device, targets: ContrastiveTargets | None = None
) -> ItemMicrobatch:
    """Move packed items to the device."""
    return ItemMicrobatch(
        token_ids=torch.from_numpy(packed.token_ids).to(device, non_blocking=True),
        position_ids=torch.from_numpy(packed.position_ids).to(device, non_blocking=True),
        item_index=torch.from_numpy(packed.item_index).to(device, non_blocking=True),
        num_items=num_items,
        targets=targets,
    )


def run_items(chunk: torch.nn.Module, items: ItemMicrobatch) -> Tensor:
    """Run a model chunk over packed items, each attending to itself only; return the hidden states [S, R, H]."""
    with hidden_states_only(chunk):
        hidden: Tensor = chunk(items.token_ids, items.position_ids, segment_mask(items.item_index))
    return hidden


def no_loss(hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a zero that starts the backward pass; the losses are attached at the taps."""
    return (hidden * 0.0).sum(), {}
