"""A lexicon compiled for one tokenizer: flat arrays that map token ids of source words to ids of translations.

Each source word is entered as it appears behind a space and behind none; as written, capitalised, and in capitals. A
word matches only if its token ids are exactly those of an entered form, and its translations take the same form.
The arrays pickle cheaply, so worker processes share one compilation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.data.token_classes import classify_vocabulary, is_letters
from megatron_prealign.data.tokenizer import Tokenizer
from megatron_prealign.data.words import hash_words
from megatron_prealign.lexicon import Lexicon, Translation, uses_spaces

NUM_FORMS = 6
"""Forms of a word: 2 * case + spaced, for case as written, Capitalised, CAPITALS, behind no space or behind one."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one array."""

    values: NDArray[Any]
    """All rows back to back."""
    offsets: NDArray[np.int64]
    """Where each row begins and ends: [rows + 1]."""

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]], dtype: type[np.number[Any]]) -> Self:
        """Pack Python sequences."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return cls(np.array([value for row in rows for value in row], dtype=dtype), offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the values of some rows back to back, and the length of each."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        return self.values[spread(self.offsets[rows], lengths)], lengths


@dataclass(frozen=True)
class WeightedChoice:
    """A weighted choice among the consecutive items of each group."""

    cumulative: NDArray[np.float64]
    """For each item its group's number plus the cumulative share up to and including it: [items], rising."""
    offsets: NDArray[np.int64]
    """Where the items of each group begin and end: [groups + 1]."""

    @classmethod
    def of(cls, groups: Sequence[Sequence[float]]) -> Self:
        """Take the weights of each group's items; positive, any unit."""
        packed = Ragged.of(groups, np.float64)
        weights, starts, lengths = packed.values, packed.offsets[:-1], packed.lengths
        numbers = np.arange(len(groups))
        sums = np.add.reduceat(weights, starts) if len(groups) else weights
        running = np.concatenate(([0.0], np.cumsum(weights / np.repeat(sums, lengths))))
        cumulative = np.repeat(numbers - running[starts], lengths) + running[1:]
        cumulative[packed.offsets[1:] - 1] = numbers + 1  # exactly, whatever was rounded on the way
        return cls(cumulative, packed.offsets)

    def choose(self, groups: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return an item of each group, drawn by a number in [0, 1)."""
        items = np.searchsorted(self.cumulative, groups + uniform, side="right")
        # A draw next to 1 may round up to the next group.
        return np.minimum(items, self.offsets[groups + 1] - 1)


@dataclass(frozen=True)
class SwitchTable:
    """Everything the code-switch needs to know of a tokenizer and a lexicon."""

    vocabulary: NDArray[np.uint16]
    """Classes of the tokens."""
    languages: tuple[str, ...]
    """Target languages, sorted."""
    num_entries: int
    """Entries of the lexicon that can match."""
    skipped: dict[str, int]
    """Why other entries and pairs can't be used, and how many."""
    key_hashes: NDArray[np.uint64]
    """Hash of the token ids of each source form: [keys], sorted."""
    key_tokens: Ragged
    """The token ids themselves, in the same order."""
    key_entries: NDArray[np.int32]
    """Lexicon entry of each source form: its position in the file."""
    key_groups: NDArray[np.int32]
    """The same among the usable entries: the group of `by_language`."""
    key_forms: NDArray[np.int8]
    """Which of the forms it is."""
    single_keys: NDArray[np.int32]
    """Source form that is just this token, or -1: [V]. Most words of a text are one token."""
    buckets: NDArray[np.int64]
    """Where the keys with each value of the leading bits of the hash begin: [2**bits + 1]."""
    by_language: WeightedChoice
    """Entry to one of its languages."""
    by_translation: WeightedChoice
    """Language of an entry to one of its translations in it."""
    pair_languages: NDArray[np.int32]
    """Language of each translation."""
    targets: Ragged
    """Token ids of each form of each translation: row = NUM_FORMS * translation + form."""

    @cached_property
    def longest_key(self) -> int:
        """Tokens of the longest source form."""
        return int(self.key_tokens.lengths.max(initial=0))

    def find(self, tokens: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Look words up.

        Args:
            tokens: int [T].
            starts: int64 [N], first token of each word.
            lengths: int64 [N], tokens of each word.

        Returns:
            int64 [N], the key whose token ids are those of the word; -1 where there is none.
        """
        found = np.where(lengths == 1, self.single_keys[tokens[starts]], -1).astype(np.int64)
        if not len(self.key_hashes):
            return found
        pending = np.flatnonzero((lengths > 1) & (lengths <= self.longest_key))
        hashes = hash_words(tokens, starts[pending], lengths[pending])
        shift = np.uint64(64 - (len(self.buckets) - 1).bit_length() + 1)
        bucket = (hashes >> shift).astype(np.int64)
        candidates, ends = self.buckets[bucket], self.buckets[bucket + 1]
        active = np.arange(len(pending))
        while len(active := active[candidates[active] < ends[active]]):
            keys, words = candidates[active], pending[active]
            same: NDArray[np.bool_] = self.key_hashes[keys] == hashes[active]
            # Equal hashes prove nothing: a hit counts only if every id is the same.
            same[same] = self._same_tokens(keys[same], tokens, starts[words[same]], lengths[words[same]])
            found[words[same]] = keys[same]
            active = active[~same]
            candidates[active] += 1
        return found

    def _same_tokens(
        self, keys: NDArray[np.int64], tokens: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        key_starts = self.key_tokens.offsets[keys]
        same: NDArray[np.bool_] = self.key_tokens.offsets[keys + 1] - key_starts == lengths
        position = 0
        while len(active := np.flatnonzero(same & (lengths > position))):
            expected = self.key_tokens.values[key_starts[active] + position]
            same[active] = tokens[starts[active] + position] == expected
            position += 1
        return same


def spread(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the integers of all ranges `start .. start + length - 1`, one range after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    values: NDArray[np.int64] = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return values


def compile_lexicon(lexicon: Lexicon, tokenizer: Tokenizer, case_transfer: bool = True) -> SwitchTable:
    """Compile a lexicon for a tokenizer.

    An entry is skipped if it is not one word of letters, a translation if the tokenizer can't write it.

    Args:
        lexicon: Source words with translations.
        tokenizer: Whose ids the text has.
        case_transfer: Also match Capitalised and CAPITALS forms of a source word, and give its translations that form;
            without it only the form in the lexicon matches.
    """
    skipped = {"source not one word": 0, "source not encodable": 0, "translation not encodable": 0}
    entries = [(number, entry) for number, entry in enumerate(lexicon.entries) if is_letters(entry.word)]
    skipped["source not one word"] = len(lexicon) - len(entries)
    target_rows = _target_rows(tokenizer, [t for _, entry in entries for t in entry.translations], case_transfer)
    usable: list[int] = []
    words: list[str] = []
    kept_rows: list[list[int]] = []
    language_weights: list[list[float]] = []
    translation_weights: list[list[float]] = []
    pair_languages: list[int] = []
    for number, entry in entries:
        by_language: dict[str, list[tuple[float, list[list[int]]]]] = {}
        for translation in entry.translations:
            rows = next(target_rows)
            if all(rows):
                by_language.setdefault(translation.language, []).append((translation.weight, rows))
            else:
                skipped["translation not encodable"] += 1
        if not by_language:
            continue
        usable.append(number)
        words.append(entry.word)
        language_weights.append([1.0] * len(by_language))
        for language, pairs in sorted(by_language.items()):
            translation_weights.append([weight for weight, _ in pairs])
            pair_languages += [lexicon.languages.index(language)] * len(pairs)
            kept_rows += [row for _, rows in pairs for row in rows]
    keys = _source_keys(tokenizer, words, case_transfer)
    skipped["source not encodable"] = len(words) - len({group for group, _ in keys.values()})
    return SwitchTable(
        vocabulary=classify_vocabulary(tokenizer.token_bytes, tokenizer.special_ids),
        languages=lexicon.languages,
        num_entries=len(words) - skipped["source not encodable"],
        skipped=skipped,
        **_pack_keys(keys, np.array(usable, dtype=np.int32), tokenizer.vocab_size),
        by_language=WeightedChoice.of(language_weights),
        by_translation=WeightedChoice.of(translation_weights),
        pair_languages=np.array(pair_languages, dtype=np.int32),
        targets=Ragged.of(kept_rows, np.int32),
    )


def _target_rows(
    tokenizer: Tokenizer, translations: Sequence[Translation], case_transfer: bool
) -> Iterator[list[list[int]]]:
    """Yield for each translation the token ids of its NUM_FORMS forms, empty where they can't be encoded."""
    words = [translation.word for translation in translations]
    is_spaced = [uses_spaces(translation.language) for translation in translations]
    return _encode_forms(tokenizer, words, case_transfer, is_spaced)


def _source_keys(
    tokenizer: Tokenizer, words: Sequence[str], case_transfer: bool
) -> dict[tuple[int, ...], tuple[int, int]]:
    """Return token ids of every source form to (word, form); a form as written wins over one derived from another."""
    forms = list(_encode_forms(tokenizer, words, case_transfer, [True] * len(words)))
    keys: dict[tuple[int, ...], tuple[int, int]] = {}
    for form in range(NUM_FORMS):
        for group, rows in enumerate(forms):
            if rows[form]:
                keys.setdefault(tuple(rows[form]), (group, form))
    return keys


def _encode_forms(
    tokenizer: Tokenizer, words: Sequence[str], case_transfer: bool, is_spaced: Sequence[bool]
) -> Iterator[list[list[int]]]:
    """Yield for each word its token ids in each form.

    A language without spaces has no form behind a space: 银行 replaces the word and its space.
    """
    cases = [words, [_capitalise(word) for word in words], [word.upper() for word in words]]
    spellings = list(dict.fromkeys(word for case in (cases if case_transfer else cases[:1]) for word in case))
    encoded = [dict(zip(spellings, _encode(tokenizer, spellings, spaced), strict=True)) for spaced in (False, True)]
    for i, spaced in enumerate(is_spaced):
        forms = [case[i] if case_transfer else words[i] for case in cases]
        # A vocabulary may lack a capital: the form as written stands in.
        by_space = [encoded[behind_space and spaced] for behind_space in (False, True)]
        yield [row[form] or row[words[i]] for form in forms for row in by_space]


def _encode(tokenizer: Tokenizer, words: Sequence[str], spaced: bool) -> list[list[int]]:
    encoded = tokenizer.encode_words(words, spaced)
    return [[] if tokenizer.special_ids.intersection(ids) else ids for ids in encoded]


def _capitalise(word: str) -> str:
    return word[:1].title() + word[1:]


def _pack_keys(
    keys: dict[tuple[int, ...], tuple[int, int]], entries: NDArray[np.int32], vocab_size: int
) -> dict[str, Any]:
    """Return the key fields of a SwitchTable, sorted by hash."""
    packed = Ragged.of(list(keys), np.int32)
    hashes = hash_words(packed.values, packed.offsets[:-1], packed.lengths) if keys else np.empty(0, dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    values, lengths = packed.take(order)
    groups, forms = (np.array([pair[i] for pair in keys.values()], dtype=np.int32)[order] for i in (0, 1))
    # Four buckets a key: most hold none or one, so a look-up costs one or two comparisons.
    bits = max(2, (4 * len(keys)).bit_length())
    leading = (hashes[order] >> np.uint64(64 - bits)).astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    is_single = np.flatnonzero(lengths == 1)
    single_keys = np.full(vocab_size, -1, dtype=np.int32)
    single_keys[values[offsets[is_single]]] = is_single
    return {
        "key_hashes": hashes[order],
        "key_tokens": Ragged(values, offsets),
        "key_entries": entries[groups],
        "key_groups": groups,
        "key_forms": forms.astype(np.int8),
        "single_keys": single_keys,
        "buckets": np.searchsorted(leading, np.arange((1 << bits) + 1)),
    }
