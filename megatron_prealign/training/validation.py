"""Measured while training: losses of each language, and retrieval of words by their translations at every tap.

Each pipeline stage scores its own taps, so that only scores are sent, not vectors.

Shapes: R rows of packed words, W words of all data-parallel ranks, H hidden.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megatron_prealign.alignment import ItemMicrobatch, Taps, gather_ranks
from megatron_prealign.config import Config
from megatron_prealign.config.alignment import tap_names
from megatron_prealign.dataset.sampler import StepLoader
from megatron_prealign.evaluation.retrieval import (
    WordPairs,
    retrieval_scores,
    select_pairs,
    summarise,
    token_ids_of,
)
from megatron_prealign.lexicon import Lexicon
from megatron_prealign.pairs.batches import PackedItems, pack_items
from megatron_prealign.platform import Mesh
from megatron_prealign.text.tokenizer import Tokenizer
from megatron_prealign.training.objectives.alignment import no_loss, run_items, to_microbatch
from megatron_prealign.training.objectives.language_modelling import LanguageModelLoss
from megatron_prealign.training.objectives.objective import Pass
from megatron_prealign.training.objectives.sequences import SequencePlan, build_together, cache_path


class Validator:
    """Measures the same samples of each language every time."""

    def __init__(self, plan: SequencePlan, mesh: Mesh, device: torch.device) -> None:
        """Build the validation set of each language; collective."""
        self._plan = plan
        self._mesh = mesh
        self._device = device
        self._datasets = build_together("validation", plan.validation_sets, cache_path(plan.config), mesh)

    @torch.no_grad()
    def run(self, chunks: list[torch.nn.Module]) -> dict[str, dict[str, float]]:
        """Return the mean losses per predicted position by language, in nats; collective.

        Returns:
            loss; switched_loss and ordinary_loss too if there are switched positions.
        """
        training, languages = self._plan.config.training, self._plan.config.data.languages
        for chunk in chunks:
            chunk.eval()
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for language, dataset in self._datasets.items():
            loss = LanguageModelLoss(self._device, languages, end_of_document=self._plan.document_border)
            loader = StepLoader(
                dataset,
                micro_batch_size=training.micro_batch_size,
                global_batch_size=training.global_batch_size,
                data_parallel_rank=self._mesh.data.rank,
                data_parallel_size=self._mesh.data.size,
                pad_end=True,
            )
            for _, batches in zip(range(training.eval_steps), loader, strict=False):
                loss.make_pass(batches).run(chunks, forward_only=True)
            loader.close()
            losses = loss.take_metrics()
            for key, name in (("loss", "lm_loss"), ("switched_loss",) * 2, ("ordinary_loss",) * 2):
                if name in losses:
                    found[key][language] = losses[name]
        for chunk in chunks:
            chunk.train()
        return dict(found)


@dataclass(frozen=True)
class PairSet:
    """The words of one language pair that are measured."""

    name: str
    """trained or held_out."""
    languages: str
    """Source and target, like en-de."""
    pairs: WordPairs
    known: Tensor | None
    """Bool per source word: its tokens and those of all translations occur in trained words; None for trained words."""


def select_pair_sets(lexicons: Mapping[str, Lexicon], tokenizer: Tokenizer, config: Config) -> list[PairSet]:
    """Draw up to `alignment.eval_word_pairs` pairs of each language of "trained" and "held_out".

    Words longer than `alignment.max_word_tokens` are cut, as in training.

    Raises:
        DataError: a language has no pair that the tokenizer can encode.
    """
    known_tokens = token_ids_of(lexicons["trained"], tokenizer) if "trained" in lexicons else None
    sets, max_word_tokens = [], config.alignment.max_word_tokens
    for name, lexicon in lexicons.items():
        for language in lexicon.languages:
            pairs = select_pairs(lexicon, language, tokenizer, config.alignment.eval_word_pairs, config.training.seed)
            known = pairs.known(known_tokens) if name == "held_out" and known_tokens is not None else None
            cut = WordPairs(
                [ids[:max_word_tokens] for ids in pairs.sources],
                [ids[:max_word_tokens] for ids in pairs.targets],
                pairs.links,
                pairs.num_dropped,
            )
            sets.append(PairSet(name, f"{lexicon.source_language}-{language}", cut, known))
    return sets


class WordValidator:
    """Measures the same word pairs every time."""

    def __init__(self, config: Config, sets: list[PairSet], taps: Taps, mesh: Mesh) -> None:
        """Measure the pairs that `select_pair_sets` drew."""
        self._sets = sets
        self._taps = taps
        self._row_length = config.alignment.word_row_length
        # Interleaved pipelines run whole rounds of microbatches.
        self._num_microbatches = 1 if mesh.virtual_pipeline_size is None else mesh.pipeline.size
        self._mesh = mesh

    @torch.no_grad()
    def run(self, chunks: list[torch.nn.Module]) -> dict[str, dict[str, Any]]:
        """Return counts and scores by tap for each set and language pair; collective, equal on all ranks."""
        for chunk in chunks:
            chunk.eval()
        results: dict[str, dict[str, Any]] = {}
        for pair_set in self._sets:
            local = self._score(chunks, pair_set)
            stages: list[Any] = [None] * self._mesh.pipeline.size
            torch.distributed.all_gather_object(stages, local, self._mesh.pipeline.group)
            scores = {tap: values for stage in stages for tap, values in stage.items()}
            ordered = [scores[tap] for tap in range(len(tap_names(self._taps.num_layers, tied=self._taps.tied)))]
            summary = summarise(pair_set.pairs, ordered, pair_set.known)
            results.setdefault(pair_set.name, {})[pair_set.languages] = summary
        for chunk in chunks:
            chunk.train()
        # Ranks decide by these numbers, which may differ in the last digit.
        agreed = [results]
        torch.distributed.broadcast_object_list(agreed, src=0)
        return agreed[0]

    def _score(self, chunks: list[torch.nn.Module], pair_set: PairSet) -> dict[int, dict[str, float | None]]:
        """Return the scores of this stage's taps."""
        pairs = pair_set.pairs
        words = [*pairs.sources, *pairs.targets]
        vectors = self._vectors(chunks, words)
        gathered = {
            tap: gather_ranks(part, self._mesh.data.group)[: len(words)] for tap, part in sorted(vectors.items())
        }
        num_sources = len(pairs.sources)
        links = pairs.links.to(self._taps.device)
        return {
            tap: retrieval_scores(found[:num_sources], found[num_sources:], links).to_json(pair_set.known)
            for tap, found in gathered.items()
        }

    def _vectors(self, chunks: list[torch.nn.Module], words: list[list[int]]) -> dict[int, Tensor]:
        """Return this data-parallel rank's share of the word vectors at each tap of this stage, fp32 [share, H]."""
        size, rank = self._mesh.data.size, self._mesh.data.rank
        per_rank = -(-len(words) // size)
        own = words[rank * per_rank : (rank + 1) * per_rank]
        found: dict[int, Tensor] = {}

        def collect(tap: int, hidden: Tensor, vectors: Tensor, _words: ItemMicrobatch) -> Tensor:
            # A word is in one microbatch; its vector is zero in the others.
            found[tap] = found[tap] + vectors if tap in found else vectors
            return hidden

        def forward_step(microbatches: Iterator[ItemMicrobatch], chunk: torch.nn.Module) -> tuple[Tensor, Any]:
            microbatch = next(microbatches)
            with self._taps.watched(microbatch, collect):
                return run_items(chunk, microbatch), no_loss

        microbatches = list(map(partial(to_microbatch, num_items=per_rank, device=self._taps.device), self._pack(own)))
        num_rows, row_length = microbatches[0].token_ids.shape
        Pass(forward_step, microbatches, row_length, num_rows).run(chunks, forward_only=True)
        return found

    def _pack(self, words: list[list[int]]) -> list[PackedItems]:
        """Pack words into rows, the same number of rows for each microbatch."""
        lengths = np.array([len(ids) for ids in words], dtype=np.int64)
        token_ids = np.array([token for ids in words for token in ids], dtype=np.int64)
        packed = pack_items(lengths, token_ids, self._row_length)
        count = self._num_microbatches
        # A rank without words runs an empty row: all ranks must run the same schedule.
        per_microbatch = max(-(-len(packed.token_ids) // count), 1)
        padded = packed.padded(per_microbatch * count)
        return [
            PackedItems(
                *(
                    part[index * per_microbatch : (index + 1) * per_microbatch]
                    for part in (padded.token_ids, padded.item_index, padded.position_ids)
                )
            )
            for index in range(count)
        ]


def held_out_retrieval(results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return P@1 of held-out words, averaged over taps and language pairs; None if there are no held-out words."""
    held_out = results.get("held_out")
    return mean(mean(pair["p_at_1"]) for pair in held_out.values()) if held_out else None
