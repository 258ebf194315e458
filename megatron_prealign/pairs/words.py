"""Words as items to align: the lexicon as arrays, every distinct word tokenized once, and batches drawn from it.

Legend: ``F`` surface forms (a word in a language); lists of varying length are offsets and values (CSR).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.draws import Counter, draw
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon, uses_spaces
from megatron_prealign.pairs.batches import Ints, ItemBatches, Keys, gather, matches
from megatron_prealign.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class WordReport:
    """What became of a lexicon under a tokenizer."""

    num_entries: int
    """Entries that can be drawn."""
    num_dropped_entries: int
    """Entries left out: the source word or every translation has no tokens or unknown ones, or they are one word."""
    dropped_words: tuple[str, ...]
    """Distinct words without tokens or with unknown ones."""
    truncated_words: tuple[str, ...]
    """Distinct words longer than the limit."""
    mean_subwords: dict[str, float]
    """Tokens a distinct word by language, before truncation (fertility)."""

    def describe(self) -> str:
        """Return in one line what a person should know before training on it."""
        fertility = ", ".join(f"{language} {mean:.2f}" for language, mean in self.mean_subwords.items())
        parts = [f"Lexicon: {self.num_entries:,} entries, subwords a word {fertility}"]
        if self.truncated_words:
            parts.append(f"{_some(self.truncated_words)} longer than alignment.max_word_tokens, truncated")
        if self.dropped_words:
            parts.append(f"{_some(self.dropped_words)} not in the tokenizer's reach, left out")
        if self.num_dropped_entries:
            parts.append(f"{self.num_dropped_entries:,} entries left out for want of a translation")
        return "; ".join(parts) + "."


def _some(words: Sequence[str], limit: int = 3) -> str:
    """Count words and show the first."""
    shown = ", ".join(repr(word if len(word) <= 40 else word[:40] + "...") for word in words[:limit]) + (
        ", ..." if len(words) > limit else ""
    )
    return f"{len(words):,} word{'s' if len(words) != 1 else ''} ({shown})"


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
    spelling_order: Ints
    """int64 [entries], entries sorted by the tokens of their source words: alike beginnings stand together"""
    words_per_entry: int
    """1 + number of target languages."""
    fingerprint: str
    """Of the lexicon."""
    report: WordReport

    @property
    def num_entries(self) -> int:
        """Entries that can be drawn."""
        return len(self.sources)

    @property
    def mean_entry_tokens(self) -> float:
        """Expected tokens of an entry: its source word, and one translation a target language, drawn by weight."""
        lengths = np.diff(self.token_offsets)
        # Thresholds run on from slot to slot, each of which ends 1 further.
        shares = np.diff(self.thresholds, prepend=0.0)
        return float(self.mean_source_tokens + lengths[self.translations] @ shares / self.num_entries)

    @property
    def mean_source_tokens(self) -> float:
        """Tokens of a source word."""
        return float(np.diff(self.token_offsets)[self.sources].mean())

    def neighbours(self, entries: Ints, count: int) -> Ints:
        """Return for each entry the source words of the next `count` entries in spelling: int64 [len(entries) * count].

        Fewer where the lexicon has no more.
        """
        places = np.empty_like(self.spelling_order)
        places[self.spelling_order] = np.arange(self.num_entries)
        steps = np.arange(1, min(count, self.num_entries - 1) + 1)
        following = (places[entries][:, None] + steps) % self.num_entries
        found: Ints = self.sources[self.spelling_order[following.ravel()]]
        return found

    @classmethod
    def build(cls, lexicon: Lexicon, tokenizer: Tokenizer, max_word_tokens: int) -> "WordTable":
        """Tokenize every distinct word once and lay the lexicon out as arrays.

        Words are encoded as inside running text: behind a space in languages that use spaces (PreAlign sec. 3.1).

        Args:
            lexicon: entries with weighted translations.
            tokenizer: the tokenizer of the model.
            max_word_tokens: tokens kept of a word; the rest is cut off and counted.

        Raises:
            DataError: if no entry is left; names some of the words that are to blame.
        """
        forms = dict.fromkeys((lexicon.source_language, entry.word) for entry in lexicon.entries)
        forms.update(dict.fromkeys((t.language, t.word) for entry in lexicon.entries for t in entry.translations))
        encoded = _encode(list(forms), tokenizer)
        usable = {form: index for index, form in enumerate(form for form in forms if form in encoded)}
        entries = _usable_entries(lexicon, usable)
        dropped = tuple(form[1] for form in forms if form not in usable)
        if not entries:
            raise DataError(_no_entry(lexicon, dropped))
        lengths = np.array([len(encoded[form]) for form in usable])
        report = WordReport(
            num_entries=len(entries),
            num_dropped_entries=len(lexicon) - len(entries),
            dropped_words=dropped,
            truncated_words=tuple(form[1] for form in usable if len(encoded[form]) > max_word_tokens),
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
            spelling_order=np.array(
                sorted(range(len(entries)), key=lambda index: kept[entries[index][0]]), dtype=np.int64
            ),
            words_per_entry=1 + len(lexicon.languages),
            fingerprint=lexicon.fingerprint,
            report=report,
            **slots,
        )


class WordBatches(ItemBatches):
    """Microbatches of lexicon entries: the source word and one translation a target language, drawn by weight."""

    kind = "word"
    option = "alignment.lexicon_paths"

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
        super().__init__(
            table.token_offsets,
            table.token_ids,
            table.num_entries,
            seed=seed,
            batch_size=word_batch_size,
            max_items=table.words_per_entry + num_hard_negatives,
            row_length=row_length,
        )
        self._table = table
        self._num_hard_negatives = num_hard_negatives

    @property
    def fingerprint(self) -> str:
        """Of the lexicon, SHA-256."""
        return self._table.fingerprint

    @property
    def mean_tokens(self) -> float:
        """Expected subwords of a microbatch, over whole epochs."""
        negatives = self._num_hard_negatives * self._table.mean_source_tokens
        return self._batch_size * (self._table.mean_entry_tokens + negatives)

    def describe(self) -> str:
        """Return what became of the lexicon under the tokenizer."""
        return self._table.report.describe()

    def _items(self, groups: Ints, keys: Keys) -> tuple[Ints, Ints]:
        """Return surface forms and group ids of a microbatch's words, both int64; each source before its words."""
        owners, translations = self._draw(groups, keys)
        owners = np.concatenate([np.arange(len(groups)), owners])
        words = np.concatenate([self._table.sources[groups], translations])
        order = np.argsort(owners, kind="stable")
        # An entry that ends one epoch and begins the next is one group.
        own_groups = np.unique(groups, return_inverse=True)[1]
        # A hard negative is a group of its own: it has no positive, so it is no anchor.
        negatives = self._table.neighbours(groups, self._num_hard_negatives)
        lone_groups = len(groups) + np.arange(len(negatives))
        return np.concatenate([words[order], negatives]), np.concatenate([own_groups[owners[order]], lone_groups])

    def _draw(self, entries: Ints, keys: Keys) -> tuple[Ints, Ints]:
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

    def _excluded_pairs(self, item_ids: Ints, group_ids: Ints) -> Ints:
        """Return ordered pairs of words of different groups that may mean the same, int64 [E, 2], sorted."""
        table = self._table
        surfaces = table.surface_ids[item_ids]
        same = matches(surfaces, surfaces)
        owners, values = gather(table.link_offsets, item_ids)
        linked, partners = matches(table.links[values], item_ids)
        pairs = np.stack([np.concatenate([same[0], owners[linked]]), np.concatenate([same[1], partners])], axis=1)
        pairs = pairs[group_ids[pairs[:, 0]] != group_ids[pairs[:, 1]]]
        return np.unique(pairs, axis=0)


def _no_entry(lexicon: Lexicon, dropped: Sequence[str]) -> str:
    """Say why a lexicon has no entry that can be used."""
    if dropped:
        reason = f"the tokenizer knows no tokens for {_some(dropped)}; take the tokenizer that fits these languages"
    else:
        entry = lexicon.entries[0] if lexicon.entries else None
        reason = f"{entry.word!r}, like the rest, is its own translation; " if entry else "it is empty; "
        reason += "check the files and alignment.target_language"
    return f"alignment.lexicon_paths: none of {len(lexicon):,} entries has a word and a translation: {reason}"


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
            # A word is no translation of itself: it would be its own positive.
            if target is not None and target != source:
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
