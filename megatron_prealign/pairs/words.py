"""Words as items to align: the lexicon as arrays, every distinct word tokenized once, and batches drawn from it.

Legend: ``F`` forms (a word in a language).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_prealign.codeswitch.draws import Counter, WeightedChoice, draw
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon, uses_spaces
from megatron_prealign.pairs.batches import Ints, ItemBatches, Keys, matches, mean_by_language, number_equals
from megatron_prealign.text.ragged import Ragged, spread
from megatron_prealign.text.tokenizer import Tokenizer

_Form = tuple[str, str]
"""Language and word."""


@dataclass(frozen=True)
class WordReport:
    """What a tokenizer made of a lexicon."""

    num_entries: int
    """Entries that can be drawn."""
    num_dropped_entries: int
    """Entries left out: the source word or every translation has no tokens or unknown ones, or they are one word."""
    dropped_words: tuple[str, ...]
    """Distinct words without tokens or with unknown ones."""
    truncated_words: tuple[str, ...]
    """Distinct words longer than the limit."""
    mean_subwords: dict[str, float]
    """Tokens per distinct word by language, before truncation (fertility)."""

    def describe(self) -> str:
        """Return in one line what to know before training on it."""
        fertility = ", ".join(f"{language} {mean:.2f}" for language, mean in self.mean_subwords.items())
        parts = [f"Lexicon: {self.num_entries:,} entries, subwords per word {fertility}"]
        if self.truncated_words:
            parts.append(f"{_some(self.truncated_words)} longer than alignment.max_word_tokens, truncated")
        if self.dropped_words:
            parts.append(f"{_some(self.dropped_words)} unknown to the tokenizer, left out")
        if self.num_dropped_entries:
            parts.append(f"{self.num_dropped_entries:,} entries without a translation, left out")
        return "; ".join(parts) + "."


def _some(words: Sequence[str], limit: int = 3) -> str:
    """Count words and show the first."""
    shown = ", ".join(repr(word if len(word) <= 40 else word[:40] + "...") for word in words[:limit]) + (
        ", ..." if len(words) > limit else ""
    )
    return f"{len(words):,} word{'s' if len(words) != 1 else ''} ({shown})"


@dataclass(frozen=True, eq=False)
class WordTable:
    """A lexicon as arrays. A slot is one target language of an entry."""

    words: tuple[str, ...]
    """The word of each form: [F]."""
    languages: tuple[str, ...]
    """The language of each form: [F]."""
    tokens: Ragged
    """Token ids of each form: int32, F rows."""
    surface_ids: Ints
    """Equal for equal words of different languages: int64 [F]."""
    links: Ragged
    """Forms that the lexicon links with each form, in both directions: int64, F rows."""
    sources: Ints
    """The form of each entry's source word: int64 [entries]."""
    slots: Ints
    """Where the slots of each entry begin and end: int64 [entries + 1]."""
    by_weight: WeightedChoice
    """Slot to one of its translations."""
    translations: Ints
    """The forms of the translations, by slot: int64."""
    spelling_order: Ints
    """Entries sorted by the tokens of their source words, so that similar ones are neighbours: int64 [entries]."""
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
        """Expected tokens of an entry: its source word, and one translation per target language, drawn by weight."""
        # The cumulative shares continue from slot to slot, each of which adds 1.
        shares = np.diff(self.by_weight.cumulative, prepend=0.0)
        return float(self.mean_source_tokens + self.tokens.lengths[self.translations] @ shares / self.num_entries)

    @property
    def mean_source_tokens(self) -> float:
        """Tokens of a source word."""
        return float(self.tokens.lengths[self.sources].mean())

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
        """Tokenize every distinct word once, as inside running text (PreAlign sec. 3.1), and lay the lexicon out.

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
        is_usable = encoded.lengths > 0
        usable = [form for form, is_kept in zip(forms, is_usable.tolist(), strict=True) if is_kept]
        dropped = tuple(word for (_, word), is_kept in zip(forms, is_usable.tolist(), strict=True) if not is_kept)
        encoded = Ragged.of(encoded.values, encoded.lengths[is_usable])
        arrays = _lay_out(lexicon, {form: number for number, form in enumerate(usable)})
        sources = arrays["sources"]
        if not len(sources):
            raise DataError(_no_entry(lexicon, dropped))
        languages, words = zip(*usable, strict=True)
        tokens = encoded.cut(max_word_tokens)
        report = WordReport(
            num_entries=len(sources),
            num_dropped_entries=len(lexicon) - len(sources),
            dropped_words=dropped,
            truncated_words=tuple(words[form] for form in np.flatnonzero(encoded.lengths > max_word_tokens)),
            mean_subwords=mean_by_language(languages, encoded.lengths),
        )
        spelling_order = sorted(range(len(sources)), key=lambda entry: tokens[sources[entry]].tolist())
        return cls(
            words=words,
            languages=languages,
            tokens=tokens,
            surface_ids=number_equals(words),
            spelling_order=np.array(spelling_order, dtype=np.int64),
            words_per_entry=1 + len(lexicon.languages),
            fingerprint=lexicon.fingerprint,
            report=report,
            **arrays,
        )


class WordBatches(ItemBatches):
    """Microbatches of lexicon entries: the source word and one translation per target language, drawn by weight."""

    kind = "word"
    option = "alignment.lexicon_paths"

    def __init__(
        self, table: WordTable, seed: int, word_batch_size: int, *, row_length: int, num_hard_negatives: int = 0
    ) -> None:
        """Check that the table fills a microbatch; further arguments as for the base class.

        `num_hard_negatives` source words are added for each entry, those spelt most like its own.

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
        max_items = table.words_per_entry + num_hard_negatives
        super().__init__(
            table.tokens, table.num_entries, max_items, seed=seed, batch_size=word_batch_size, row_length=row_length
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
        """Return what the tokenizer made of the lexicon."""
        return self._table.report.describe()

    def _items(self, groups: Ints, keys: Keys) -> tuple[Ints, Ints]:
        """Return forms and group ids of a microbatch's words, both int64; each source before its words."""
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
        """Draw a translation per target language: position in `entries` and form, both int64."""
        table = self._table
        lengths = table.slots[entries + 1] - table.slots[entries]
        owners = np.repeat(np.arange(len(entries)), lengths)
        within = spread(np.zeros_like(lengths), lengths)
        uniform = draw(keys[owners], within, Counter.TRANSLATION)
        return owners, table.translations[table.by_weight.choose(table.slots[entries][owners] + within, uniform)]

    def _excluded_pairs(self, item_ids: Ints, group_ids: Ints) -> Ints:
        """Return ordered pairs of words of different groups that may mean the same, int64 [E, 2], sorted."""
        table = self._table
        surfaces = table.surface_ids[item_ids]
        same = matches(surfaces, surfaces)
        links, lengths = table.links.take(item_ids)
        linked, partners = matches(links, item_ids)
        firsts = np.concatenate([same[0], np.repeat(np.arange(len(item_ids)), lengths)[linked]])
        pairs = np.stack([firsts, np.concatenate([same[1], partners])], axis=1)
        pairs = pairs[group_ids[pairs[:, 0]] != group_ids[pairs[:, 1]]]
        return np.unique(pairs, axis=0)


def _no_entry(lexicon: Lexicon, dropped: Sequence[str]) -> str:
    """Say why a lexicon has no entry that can be used."""
    if dropped:
        reason = f"the tokenizer has no tokens for {_some(dropped)}; use one that covers these languages"
    else:
        entry = lexicon.entries[0] if lexicon.entries else None
        reason = f"{entry.word!r}, like the rest, is its own translation; " if entry else "it is empty; "
        reason += "check the files and alignment.target_language"
    return f"alignment.lexicon_paths: none of {len(lexicon):,} entries has a word and a translation: {reason}"


def _encode(forms: Sequence[_Form], tokenizer: Tokenizer) -> Ragged:
    """Return the token ids of each form, none for those that the tokenizer can't write without unknown tokens."""
    rows: list[list[int]] = [[]] * len(forms)
    for spaced in (False, True):
        chosen = [number for number, (language, _) in enumerate(forms) if uses_spaces(language) == spaced]
        encoded = tokenizer.encode_words([forms[number][1] for number in chosen], spaced)
        for number, ids in zip(chosen, encoded, strict=True):
            rows[number] = ids if tokenizer.special_ids.isdisjoint(ids) else []
    return Ragged.of_rows(rows)


def _lay_out(lexicon: Lexicon, numbers: dict[_Form, int]) -> dict[str, Any]:
    """Return the arrays of a table that hold the usable entries and their translations.

    Args:
        lexicon: all entries.
        numbers: the number of each form that the tokenizer can write.
    """
    sources: list[int] = []
    slots: list[list[tuple[int, float]]] = []
    slot_counts: list[int] = []
    for entry in lexicon.entries:
        source = numbers.get((lexicon.source_language, entry.word))
        by_language: dict[str, list[tuple[int, float]]] = {}
        for translation in entry.translations:
            target = numbers.get((translation.language, translation.word))
            # A word is no translation of itself: it would be its own positive.
            if target is not None and target != source:
                by_language.setdefault(translation.language, []).append((target, translation.weight))
        if source is not None and by_language:
            sources.append(source)
            slots += by_language.values()
            slot_counts.append(len(by_language))
    weights = np.array([weight for slot in slots for _, weight in slot], dtype=np.float64)
    choice = WeightedChoice.of(weights, np.array([len(slot) for slot in slots], dtype=np.int64))
    offsets = np.cumsum([0, *slot_counts])
    translations = np.array([target for slot in slots for target, _ in slot], dtype=np.int64)
    owners = np.repeat(np.array(sources, dtype=np.int64), np.diff(choice.offsets[offsets]))
    return {
        "sources": np.array(sources, dtype=np.int64),
        "slots": offsets,
        "by_weight": choice,
        "translations": translations,
        "links": _links(owners, translations, len(numbers)),
    }


def _links(sources: Ints, targets: Ints, num_forms: int) -> Ragged:
    """Return the forms linked with each form by pairs of forms, in both directions, without repeats."""
    codes = np.unique(np.concatenate([sources * num_forms + targets, targets * num_forms + sources]))
    firsts, seconds = np.divmod(codes, max(num_forms, 1))
    return Ragged.of(seconds, np.bincount(firsts, minlength=num_forms))
