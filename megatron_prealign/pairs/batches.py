"""Word microbatches of stage 1: which words, their groups, and what must not be a negative.

Legend: ``W`` words of a global microbatch, ``B`` lexicon entries of it, ``R`` rows of packed words.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.draws import Counter, draw, stream_keys
from megatron_prealign.errors import DataError
from megatron_prealign.pairs.packing import PackedWords, pack_words
from megatron_prealign.pairs.table import Ints, WordReport, WordTable, expand, gather

PADDING = -1


@dataclass(frozen=True, eq=False)
class WordBatch:
    """One word microbatch: the words of a data-parallel rank, and what concerns the words of all ranks."""

    packed: PackedWords
    """This rank's words; word_index counts from `start`"""
    start: int
    """This rank's first word in the global microbatch."""
    stop: int
    """Behind this rank's last word."""
    group_ids: Ints
    """int64 [W], equal for a word and its translations; -1 for padding words, which stand at the end"""
    word_ids: Ints
    """int64 [W], surface form in the table; -1 for padding words"""
    excluded_pairs: Ints
    """int64 [E, 2], ordered (i, k) and (k, i): of different groups, but the same word or linked by the lexicon"""
    num_tokens: int
    """Tokens of all words of the global microbatch, padding left out."""

    @property
    def num_words(self) -> int:
        """Words of the global microbatch, padding left out."""
        return int((self.word_ids != PADDING).sum())


class WordBatches:
    """Word microbatches addressed by a counter: microbatch m is a function of (table, seed, m).

    An epoch takes every entry once, in an order of its own; for each entry the source word and one translation a
    target language, drawn by weight. A microbatch may reach from one epoch into the next, so all are full.
    """

    def __init__(
        self, table: WordTable, seed: int, word_batch_size: int, *, row_length: int, num_hard_negatives: int = 0
    ) -> None:
        """Keep the table.

        Args:
            table: the lexicon as arrays.
            seed: seed of the order of entries and of the translations drawn.
            word_batch_size: entries of one global microbatch.
            row_length: positions of a row of packed words, at least the longest word.
            num_hard_negatives: source words added for each entry that are spelt most like its own.

        Raises:
            DataError: if the table has fewer entries than one microbatch, or too few for the hard negatives.
        """
        if table.num_entries < word_batch_size:
            raise DataError(
                f"the lexicon has {table.num_entries} usable entries, fewer than alignment.word_batch_size "
                f"{word_batch_size}; lower it or give a larger lexicon"
            )
        if num_hard_negatives >= table.num_entries:
            raise DataError(
                f"alignment.num_hard_negatives {num_hard_negatives} is more than the other {table.num_entries - 1} "
                "usable entries of the lexicon; lower it"
            )
        self._table = table
        self._seed = seed
        self._batch_size = word_batch_size
        self._row_length = row_length
        self._num_hard_negatives = num_hard_negatives
        self._order = lru_cache(maxsize=2)(self._shuffle)

    @property
    def report(self) -> WordReport:
        """What became of the lexicon under the tokenizer."""
        return self._table.report

    @property
    def fingerprint(self) -> str:
        """Of the lexicon, SHA-256."""
        return self._table.fingerprint

    @property
    def mean_tokens(self) -> float:
        """Expected subwords of a microbatch, over whole epochs."""
        negatives = self._num_hard_negatives * self._table.mean_source_tokens
        return self._batch_size * (self._table.mean_entry_tokens + negatives)

    def batches(self, first: int, count: int, *, rank: int = 0, size: int = 1) -> list[WordBatch]:
        """Return consecutive microbatches with as many rows each: the schedule wants equal shapes.

        The ranks of the data-parallel axis may have other numbers of rows; they exchange word vectors alone.

        Args:
            first: counter of the first microbatch since the start of training, over all epochs.
            count: microbatches.
            rank: this rank on the data-parallel axis.
            size: size of the data-parallel axis; the number of words is padded to a multiple of it.
        """
        found = [self._batch(index, rank, size) for index in range(first, first + count)]
        # Where entries lack languages the last ranks may have padding alone; the model still needs a row to run on.
        num_rows = max(1, *(len(batch.packed.token_ids) for batch in found))
        return [replace(batch, packed=batch.packed.padded(num_rows)) for batch in found]

    def batch(self, index: int, *, rank: int = 0, size: int = 1) -> WordBatch:
        """Return one microbatch."""
        return self.batches(index, 1, rank=rank, size=size)[0]

    def _batch(self, index: int, rank: int, size: int) -> WordBatch:
        table = self._table
        word_ids, group_ids = self._words(index)
        per_entry = table.words_per_entry + self._num_hard_negatives
        # Entries differ in the languages they have, and ranks hold equal numbers of words.
        num_words = -(-self._batch_size * per_entry // size) * size
        padding = (0, num_words - len(word_ids))
        excluded_pairs = _excluded_pairs(table, word_ids, group_ids)
        padded_groups = np.pad(group_ids, padding, constant_values=PADDING)
        padded_words = np.pad(word_ids, padding, constant_values=PADDING)
        lengths = np.diff(table.token_offsets)[word_ids]
        start, stop = rank * num_words // size, (rank + 1) * num_words // size
        _, values = gather(table.token_offsets, word_ids[start:stop])
        return WordBatch(
            packed=pack_words(lengths[start:stop], table.token_ids[values], self._row_length),
            start=start,
            stop=stop,
            group_ids=padded_groups,
            word_ids=padded_words,
            excluded_pairs=excluded_pairs,
            num_tokens=int(lengths.sum()),
        )

    def _words(self, index: int) -> tuple[Ints, Ints]:
        """Return surface forms and group ids of a microbatch's words, both int64; each source before its words."""
        positions = index * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        epochs, ranks = np.divmod(positions, self._table.num_entries)
        parts = [(epoch, self._order(epoch)[ranks[epochs == epoch]]) for epoch in np.unique(epochs).tolist()]
        entries = np.concatenate([part for _, part in parts])
        keys = np.concatenate([self._keys(epoch, part) for epoch, part in parts])
        owners, translations = self._draw(entries, keys)
        owners = np.concatenate([np.arange(len(entries)), owners])
        words = np.concatenate([self._table.sources[entries], translations])
        order = np.argsort(owners, kind="stable")
        # An entry that ends one epoch and begins the next is one group.
        groups = np.unique(entries, return_inverse=True)[1]
        # A hard negative is a group of its own: it has no positive, so it is no anchor.
        negatives = self._table.neighbours(entries, self._num_hard_negatives)
        own_groups = len(entries) + np.arange(len(negatives))
        return np.concatenate([words[order], negatives]), np.concatenate([groups[owners[order]], own_groups])

    def _shuffle(self, epoch: int) -> Ints:
        """Return the order of entries in an epoch, int64 [entries]."""
        return np.argsort(self._keys(epoch, np.arange(self._table.num_entries)))

    def _draw(self, entries: Ints, keys: NDArray[np.uint64]) -> tuple[Ints, Ints]:
        """Draw a translation a target language: position in `entries` and surface form, both int64."""
        table = self._table
        owners, slots = gather(table.slot_offsets, entries)
        within = slots - table.slot_offsets[entries][owners]
        chosen = np.searchsorted(
            table.thresholds, slots + draw(keys[owners], within, Counter.TRANSLATION), side="right"
        )
        # slot + draw may round up to the next slot.
        chosen = np.minimum(chosen, table.slot_targets[slots + 1] - 1)
        return owners, table.translations[chosen]

    def _keys(self, epoch: int, entries: Ints) -> NDArray[np.uint64]:
        """Return a generator key for each entry, distinct within an epoch: uint64 [len(entries)]."""
        return stream_keys(self._seed, epoch, entries.astype(np.uint64))


def _excluded_pairs(table: WordTable, word_ids: Ints, group_ids: Ints) -> Ints:
    """Return ordered pairs of words of different groups that may mean the same, int64 [E, 2], sorted."""
    surfaces = table.surface_ids[word_ids]
    same = _matches(surfaces, surfaces)
    owners, values = gather(table.link_offsets, word_ids)
    linked, partners = _matches(table.links[values], word_ids)
    pairs = np.stack([np.concatenate([same[0], owners[linked]]), np.concatenate([same[1], partners])], axis=1)
    pairs = pairs[group_ids[pairs[:, 0]] != group_ids[pairs[:, 1]]]
    return np.unique(pairs, axis=0)


def _matches(queries: Ints, keys: Ints) -> tuple[Ints, Ints]:
    """Return all (q, k) with queries[q] == keys[k], without comparing each with each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.searchsorted(ordered, queries, side="left")
    owners, positions = expand(starts, np.searchsorted(ordered, queries, side="right"))
    return owners, order[positions]
