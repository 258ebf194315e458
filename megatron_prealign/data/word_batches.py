"""Word batches of stage 1: lexicon entries as token ids, with their groups and what must not be a negative.

Legend: ``W`` words of a global microbatch, ``S`` tokens of its longest word, ``F`` surface forms (a word in a
language), ``B`` lexicon entries of a microbatch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.data.draws import Counter, draw, stream_keys
from megatron_prealign.data.tokenizer import Tokenizer
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon, uses_spaces

PADDING = -1

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class WordReport:
    """What became of a lexicon under a tokenizer."""

    num_entries: int
    """Entries that can be drawn."""
    num_dropped_entries: int
    """Entries left out: the source word or every translation has no tokens or unknown ones."""
    num_dropped_words: int
    """Distinct words without tokens or with unknown ones."""
    num_truncated_words: int
    """Distinct words longer than the limit."""
    mean_subwords: dict[str, float]
    """Tokens a distinct word by language, before truncation (fertility)."""


@dataclass(frozen=True, eq=False)
class WordTable:
    """A lexicon as arrays; lists of varying length are offsets and values (CSR)."""

    words: tuple[str, ...]
    """The word of each surface form [F]."""
    languages: tuple[str, ...]
    """The language of each surface form [F]."""
    token_offsets: Ints
    """int64 [F + 1]"""
    token_ids: Ints
    """int64, the tokens of form f at token_offsets[f] : token_offsets[f + 1]"""
    surface_ids: Ints
    """int64 [F], equal for equal words of different languages"""
    link_offsets: Ints
    """int64 [F + 1]"""
    links: Ints
    """int64, the forms that the lexicon links with form f, in both directions"""
    sources: Ints
    """int64 [entries], the form of the source word"""
    slot_offsets: Ints
    """int64 [entries + 1]; a slot is one target language of an entry"""
    slot_targets: Ints
    """int64 [slots + 1], where each slot's translations begin"""
    translations: Ints
    """int64, the forms of the translations, by slot"""
    thresholds: NDArray[np.float64]
    """float64, slot + cumulative share of weight: translation t is drawn for u below its own threshold - slot"""
    words_per_entry: int
    """1 + number of target languages."""
    report: WordReport

    @property
    def num_entries(self) -> int:
        """Entries that can be drawn."""
        return len(self.sources)

    @classmethod
    def build(cls, lexicon: Lexicon, tokenizer: Tokenizer, max_word_tokens: int) -> "WordTable":
        """Tokenize every distinct word once and lay the lexicon out as arrays.

        Words are encoded as inside running text: behind a space in languages that use spaces (PreAlign sec. 3.1).

        Args:
            lexicon: entries with weighted translations.
            tokenizer: the tokenizer of the model.
            max_word_tokens: tokens kept of a word; the rest is cut off and counted.

        Raises:
            DataError: if no entry is left.
        """
        forms = dict.fromkeys((lexicon.source_language, entry.word) for entry in lexicon.entries)
        forms.update(dict.fromkeys((t.language, t.word) for entry in lexicon.entries for t in entry.translations))
        encoded = _encode(list(forms), tokenizer)
        usable = {form: index for index, form in enumerate(form for form in forms if form in encoded)}
        entries = _usable_entries(lexicon, usable)
        if not entries:
            raise DataError(
                "alignment.lexicon_paths: no entry has a word and a translation that this tokenizer can encode"
            )
        lengths = np.array([len(encoded[form]) for form in usable])
        report = WordReport(
            num_entries=len(entries),
            num_dropped_entries=len(lexicon) - len(entries),
            num_dropped_words=len(forms) - len(usable),
            num_truncated_words=int((lengths > max_word_tokens).sum()),
            mean_subwords=_mean_by_language([language for language, _ in usable], lengths),
        )
        kept = [encoded[form][:max_word_tokens] for form in usable]
        words = tuple(word for _, word in usable)
        surfaces: dict[str, int] = {}
        slots = _slots(entries)
        links = _links(slots, len(usable))
        return cls(
            words=words,
            languages=tuple(language for language, _ in usable),
            token_offsets=_offsets([len(ids) for ids in kept]),
            token_ids=np.array([token for ids in kept for token in ids], dtype=np.int64),
            surface_ids=np.array([surfaces.setdefault(word, len(surfaces)) for word in words], dtype=np.int64),
            link_offsets=links[0],
            links=links[1],
            words_per_entry=1 + len(lexicon.languages),
            report=report,
            **slots,
        )


@dataclass(frozen=True, eq=False)
class WordBatch:
    """One word microbatch: the words of a data-parallel rank, and what concerns the words of all ranks."""

    token_ids: Ints
    """int64 [stop - start, S], this rank's words, padded with 0"""
    mask: NDArray[np.bool_]
    """bool [stop - start, S], True at a word's own tokens; all False for padding words"""
    start: int
    """This rank's first word in the global microbatch."""
    stop: int
    """Behind this rank's last word."""
    group_ids: Ints
    """int64 [W], equal for a word and its translations; -1 for padding words"""
    word_ids: Ints
    """int64 [W], surface form in the table; -1 for padding words"""
    valid: NDArray[np.bool_]
    """bool [W], False for padding words"""
    excluded_pairs: Ints
    """int64 [E, 2], ordered (i, k) and (k, i): of different groups, but the same word or linked by the lexicon"""
    num_tokens: int
    """Tokens of all words of the global microbatch, padding left out."""


class WordBatches:
    """Word microbatches addressed by a counter: microbatch m is a function of (table, seed, m).

    An epoch takes every entry once, in an order of its own; for each entry the source word and one translation a
    target language, drawn by weight. A microbatch may reach from one epoch into the next, so all are full.
    """

    def __init__(self, table: WordTable, seed: int, word_batch_size: int) -> None:
        """Keep the table.

        Args:
            table: the lexicon as arrays.
            seed: seed of the order of entries and of the translations drawn.
            word_batch_size: entries of one global microbatch.

        Raises:
            DataError: if the table has fewer entries than one microbatch.
        """
        if table.num_entries < word_batch_size:
            raise DataError(
                f"the lexicon has {table.num_entries} usable entries, fewer than alignment.word_batch_size "
                f"{word_batch_size}; lower it or give a larger lexicon"
            )
        self._table = table
        self._seed = seed
        self._batch_size = word_batch_size
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def batch(self, index: int, *, rank: int = 0, size: int = 1, pad_multiple: int = 1) -> WordBatch:
        """Return a microbatch.

        Args:
            index: microbatch counter since the start of training, over all epochs.
            rank: this rank on the data-parallel axis.
            size: size of the data-parallel axis; the number of words is padded to a multiple of it.
            pad_multiple: S is rounded up to a multiple of it (the tensor-parallel size, for sequence parallelism).
        """
        table = self._table
        word_ids, group_ids = self._words(index)
        lengths = np.diff(table.token_offsets)[word_ids]
        width = -(-int(lengths.max()) // pad_multiple) * pad_multiple
        # The schedule needs equal shapes within a step, and entries differ in the languages they have.
        num_words = -(-self._batch_size * table.words_per_entry // size) * size
        padding = (0, num_words - len(word_ids))
        start, stop = rank * num_words // size, (rank + 1) * num_words // size
        token_ids, mask = _pad_words(table, word_ids[start:stop], stop - start, width)
        return WordBatch(
            token_ids=token_ids,
            mask=mask,
            start=start,
            stop=stop,
            group_ids=np.pad(group_ids, padding, constant_values=PADDING),
            word_ids=np.pad(word_ids, padding, constant_values=PADDING),
            valid=np.arange(num_words) < len(word_ids),
            excluded_pairs=_excluded_pairs(table, word_ids, group_ids),
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
        return words[order], groups[owners[order]]

    def _shuffle(self, epoch: int) -> Ints:
        """Return the order of entries in an epoch, int64 [entries]."""
        return np.argsort(self._keys(epoch, np.arange(self._table.num_entries)))

    def _draw(self, entries: Ints, keys: NDArray[np.uint64]) -> tuple[Ints, Ints]:
        """Draw a translation a target language: position in `entries` and surface form, both int64."""
        table = self._table
        owners, slots = _gather(table.slot_offsets, entries)
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


def _encode(forms: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> dict[tuple[str, str], list[int]]:
    """Return the token ids of each (language, word) that the tokenizer can write without unknown tokens."""
    encoded: dict[tuple[str, str], list[int]] = {}
    for language in dict.fromkeys(language for language, _ in forms):
        chosen = [form for form in forms if form[0] == language]
        ids = tokenizer.encode_words([word for _, word in chosen], uses_spaces(language))
        encoded.update(zip(chosen, ids, strict=True))
    return {form: ids for form, ids in encoded.items() if ids and tokenizer.special_ids.isdisjoint(ids)}


_Entry = tuple[int, dict[str, list[tuple[int, float]]]]
"""Source form, and for each language the (form, weight) of the translations."""


def _usable_entries(lexicon: Lexicon, usable: dict[tuple[str, str], int]) -> list[_Entry]:
    entries = []
    for entry in lexicon.entries:
        source = usable.get((lexicon.source_language, entry.word))
        slots: dict[str, list[tuple[int, float]]] = {}
        for translation in entry.translations:
            target = usable.get((translation.language, translation.word))
            if target is not None:
                slots.setdefault(translation.language, []).append((target, translation.weight))
        if source is not None and slots:
            entries.append((source, slots))
    return entries


def _slots(entries: Sequence[_Entry]) -> dict[str, NDArray[Any]]:
    """Return the arrays of the table that hold entries and their translations."""
    slots = [slot for _, by_language in entries for slot in by_language.values()]
    targets = _offsets([len(slot) for slot in slots])
    weights = np.array([weight for slot in slots for _, weight in slot], dtype=np.float64)
    running = np.concatenate([[0.0], np.cumsum(weights)])
    owners = np.repeat(np.arange(len(slots)), np.diff(targets))
    totals = running[targets[1:]] - running[targets[:-1]]
    return {
        "sources": np.array([source for source, _ in entries], dtype=np.int64),
        "slot_offsets": _offsets([len(by_language) for _, by_language in entries]),
        "slot_targets": targets,
        "translations": np.array([target for slot in slots for target, _ in slot], dtype=np.int64),
        "thresholds": owners + (running[1:] - running[targets[:-1]][owners]) / totals[owners],
    }


def _links(slots: dict[str, NDArray[Any]], num_forms: int) -> tuple[Ints, Ints]:
    """Return offsets and values of the forms linked with each form, both directions, without repeats."""
    per_entry = slots["slot_targets"][slots["slot_offsets"]]
    sources, targets = np.repeat(slots["sources"], np.diff(per_entry)), slots["translations"]
    codes = np.unique(np.concatenate([sources * num_forms + targets, targets * num_forms + sources]))
    firsts, seconds = np.divmod(codes, num_forms)
    return _offsets(np.bincount(firsts, minlength=num_forms)), seconds


def _mean_by_language(languages: Sequence[str], lengths: Ints) -> dict[str, float]:
    names = np.array(languages)
    return {name: float(lengths[names == name].mean()) for name in dict.fromkeys(languages)}


def _offsets(lengths: Sequence[int] | Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64), dtype=np.int64)])


def _gather(offsets: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Return for all values of the CSR rows the position in `rows` and the index of the value, both int64."""
    return _expand(offsets[rows], offsets[rows + 1])


def _expand(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """Return (which range, value) for all values of the ranges [start, stop), one range after the other."""
    lengths = stops - starts
    owners = np.repeat(np.arange(len(starts)), lengths)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return owners, starts[owners] + within


def _pad_words(table: WordTable, word_ids: Ints, num_words: int, width: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Return token ids int64 and mask bool, both [num_words, width]; rows behind the words stay empty."""
    token_ids = np.zeros((num_words, width), dtype=np.int64)
    mask = np.zeros((num_words, width), dtype=bool)
    rows, values = _gather(table.token_offsets, word_ids)
    columns = values - table.token_offsets[word_ids][rows]
    token_ids[rows, columns] = table.token_ids[values]
    mask[rows, columns] = True
    return token_ids, mask


def _excluded_pairs(table: WordTable, word_ids: Ints, group_ids: Ints) -> Ints:
    """Return ordered pairs of words of different groups that may mean the same, int64 [E, 2], sorted."""
    surfaces = table.surface_ids[word_ids]
    same = _matches(surfaces, surfaces)
    owners, values = _gather(table.link_offsets, word_ids)
    linked, partners = _matches(table.links[values], word_ids)
    pairs = np.stack([np.concatenate([same[0], owners[linked]]), np.concatenate([same[1], partners])], axis=1)
    pairs = pairs[group_ids[pairs[:, 0]] != group_ids[pairs[:, 1]]]
    return np.unique(pairs, axis=0)


def _matches(queries: Ints, keys: Ints) -> tuple[Ints, Ints]:
    """Return all (q, k) with queries[q] == keys[k], without comparing each with each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.searchsorted(ordered, queries, side="left")
    owners, positions = _expand(starts, np.searchsorted(ordered, queries, side="right"))
    return owners, order[positions]
