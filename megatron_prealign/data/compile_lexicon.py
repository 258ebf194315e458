"""Compiling a lexicon for one tokenizer: from words to the flat arrays of a switch table, a few array operations long.

Words are encoded thousands at a time, a line each, and the ids are cut at the line breaks: no library call, object or
loop iteration is spent on a single word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.data.encoding import Encoder, ReferenceEncoder
from megatron_prealign.data.switch_table import NUM_FORMS, Ragged, SwitchTable, WeightedChoice, same_spans, spread
from megatron_prealign.data.token_classes import classify_vocabulary, is_letters
from megatron_prealign.data.tokenizer import Tokenizer
from megatron_prealign.data.words import hash_words
from megatron_prealign.lexicon import Lexicon, uses_spaces
from megatron_prealign.lexicon.collector import paused_collector

_WORDS_PER_TEXT = 512
# Languages in which i and ı are two letters, with the capitals İ and I.
_DOTTED_I = frozenset(("tr", "tur", "az", "aze"))


@dataclass(frozen=True)
class TableOptions:
    """How a lexicon is used."""

    case_transfer: bool = True
    """Also match Capitalised and CAPITALS forms of a source word, and give its translations that form; without it only
    the form in the lexicon matches."""
    max_translations: int | None = None
    """How many translations of a word into one language can be drawn, those of the largest weights; None for all."""
    excluded_words: frozenset[str] = frozenset()
    """Source words that are never switched, case-folded."""
    language_weights: Mapping[str, float] = field(default_factory=dict)
    """Relative chance of a language to be drawn among those that have a translation of a word; 1 where not named."""

    def describe(self) -> dict[str, Any]:
        """Return the options as plain values."""
        excluded = "\n".join(sorted(self.excluded_words))
        return {
            "case_transfer": self.case_transfer,
            "max_translations": self.max_translations,
            "excluded_words": sha256(excluded.encode()).hexdigest() if excluded else None,
            "language_weights": dict(sorted(self.language_weights.items())),
        }


@paused_collector()
def compile_lexicon(
    lexicon: Lexicon, tokenizer: Tokenizer, options: TableOptions | None = None, encoder: Encoder | None = None
) -> SwitchTable:
    """Compile a lexicon for a tokenizer.

    An entry is skipped if it is not one word of letters, a translation if the tokenizer can't write it.

    Args:
        lexicon: Source words with translations.
        tokenizer: Whose ids the text has.
        options: How the lexicon is used; None for the defaults.
        encoder: A quicker one that gives the tokenizer's ids; None for its own library.
    """
    options = options or TableOptions()
    encoder = encoder or ReferenceEncoder(tokenizer)
    words_of_letters = [number for number, entry in enumerate(lexicon.entries) if is_letters(entry.word)]
    excluded = options.excluded_words
    numbers = [number for number in words_of_letters if lexicon.entries[number].word.casefold() not in excluded]
    entries = [lexicon.entries[number] for number in numbers]
    pairs = [translation for entry in entries for translation in entry.translations]
    language_numbers = {language: number for number, language in enumerate(lexicon.languages)}
    languages = np.array([language_numbers[pair.language] for pair in pairs], dtype=np.int32)
    owners = np.repeat(np.arange(len(entries)), [len(entry.translations) for entry in entries])
    is_spaced = np.array([uses_spaces(language) for language in lexicon.languages], dtype=bool)
    cases = _cases([pair.word for pair in pairs], [pair.language for pair in pairs], options.case_transfer)
    targets = _encode_forms(tokenizer, encoder, cases, is_spaced[languages])
    # An empty form as written means that the word can't be written at all.
    is_usable = targets.lengths.reshape(-1, NUM_FORMS).min(axis=1, initial=1) > 0
    weights = np.array([pair.weight for pair in pairs], dtype=np.float64)
    order, groups = _rank_pairs(owners, languages, weights, is_usable, options.max_translations)
    owners, languages, weights = owners[order], languages[order], weights[order]
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    language_weights = np.array([options.language_weights.get(name, 1.0) for name in lexicon.languages])
    usable, num_languages = np.unique(owners[begins], return_counts=True)
    words = [entries[owner].word for owner in usable]
    source_cases = _cases(words, [lexicon.source_language] * len(words), options.case_transfer)
    keys = _source_keys(tokenizer, encoder, source_cases, np.array(numbers, dtype=np.int32)[usable])
    num_entries = len(np.unique(keys["key_groups"]))
    kept = spread(order * NUM_FORMS, np.full(len(order), NUM_FORMS))
    return SwitchTable(
        vocabulary=classify_vocabulary(tokenizer.token_bytes, tokenizer.special_ids),
        languages=lexicon.languages,
        num_entries=num_entries,
        skipped={
            "source not one word": len(lexicon) - len(words_of_letters),
            "source excluded": len(words_of_letters) - len(entries),
            "source not encodable": len(words) - num_entries,
            "translation not encodable": len(pairs) - int(is_usable.sum()),
        },
        **keys,
        by_language=WeightedChoice.of(language_weights[languages[begins]], num_languages),
        by_translation=WeightedChoice.of(weights, np.diff(begins, append=len(order))),
        pair_languages=languages,
        targets=targets.take(kept),
    )


def _rank_pairs(
    owners: NDArray[np.int64],
    languages: NDArray[np.int32],
    weights: NDArray[np.float64],
    is_usable: NDArray[np.bool_],
    max_translations: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the word pairs to keep by entry, language and falling weight, and the group of each: int64 [N] both."""
    order = np.lexsort((-weights, languages, owners))
    order = order[is_usable[order]]
    groups = owners[order] * (int(languages.max(initial=0)) + 1) + languages[order]
    if max_translations is None:
        return order, groups
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    ranks = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    return order[ranks < max_translations], groups[ranks < max_translations]


def _source_keys(
    tokenizer: Tokenizer, encoder: Encoder, cases: Sequence[Sequence[str]], entries: NDArray[np.int32]
) -> dict[str, Any]:
    """Return the key fields of a SwitchTable; a form as written wins over one derived from another word."""
    forms = _encode_forms(tokenizer, encoder, cases, np.ones(len(entries), dtype=bool))
    by_form = np.arange(NUM_FORMS * len(entries)).reshape(-1, NUM_FORMS).T.reshape(-1)
    all_lengths, starts, values = forms.lengths, forms.starts, forms.stored.values
    by_form = by_form[all_lengths[by_form] > 0]
    hashes = hash_words(values, starts[by_form], all_lengths[by_form])
    order = np.argsort(hashes, kind="stable")
    rows, hashes = by_form[order], hashes[order]
    # Of equal forms the first one stays; equal hashes alone prove nothing.
    runs = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
    heads = rows[np.repeat(runs, np.diff(runs, append=len(rows)))]
    is_equal = (rows != heads) & (all_lengths[rows] == all_lengths[heads])
    is_equal[is_equal] = same_spans(
        values, starts[rows[is_equal]], values, starts[heads[is_equal]], all_lengths[rows[is_equal]]
    )
    rows, hashes = rows[~is_equal], hashes[~is_equal]
    keys = forms.take(rows)
    # Four buckets a key: most hold none or one, so a look-up costs one or two comparisons.
    bits = max(2, (4 * len(rows)).bit_length())
    leading = (hashes >> np.uint64(64 - bits)).astype(np.int64)
    is_single = np.flatnonzero(keys.lengths == 1)
    single_keys = np.full(tokenizer.vocab_size, -1, dtype=np.int32)
    single_keys[keys.values[keys.offsets[is_single]]] = is_single
    groups = rows // NUM_FORMS
    return {
        "key_hashes": hashes,
        "key_tokens": keys,
        "key_entries": entries[groups],
        "key_groups": groups.astype(np.int32),
        "key_forms": (rows % NUM_FORMS).astype(np.int8),
        "single_keys": single_keys,
        "buckets": np.searchsorted(leading, np.arange((1 << bits) + 1)),
    }


def _cases(words: Sequence[str], languages: Sequence[str], case_transfer: bool) -> list[list[str]]:
    """Return the words as written and, with case transfer, Capitalised and in CAPITALS by their languages' rules."""
    if not case_transfer:
        return [list(words)]
    has_dotted_i = {language: language.partition("-")[0] in _DOTTED_I for language in set(languages)}
    # The only letters whose capitals depend on the language.
    dotted = [
        word.replace("i", "İ") if has_dotted_i[language] else word
        for word, language in zip(words, languages, strict=True)
    ]
    capitalised = [
        (dotted_word if word[:1] == "i" else word)[:1].title() + word[1:]
        for word, dotted_word in zip(words, dotted, strict=True)
    ]
    return [list(words), capitalised, [word.upper() for word in dotted]]


@dataclass(frozen=True)
class _Forms:
    """The ids of words in all their forms: form = NUM_FORMS * word + number; empty where it can't be encoded."""

    stored: Ragged
    """The ids; forms that are the same share a row."""
    rows: NDArray[np.int64]
    """Row of each form: [NUM_FORMS * words]."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of ids of each form."""
        return self.stored.lengths[self.rows]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where the ids of each form begin in `stored.values`."""
        return self.stored.offsets[self.rows]

    def take(self, forms: NDArray[np.int64]) -> Ragged:
        """Return a row for each of some forms."""
        values, lengths = self.stored.take(self.rows[forms])
        return Ragged(values, np.concatenate(([0], np.cumsum(lengths))))


def _encode_forms(
    tokenizer: Tokenizer, encoder: Encoder, cases: Sequence[Sequence[str]], is_spaced: NDArray[np.bool_]
) -> _Forms:
    """Return the ids of each word's forms.

    A language without spaces has no form behind a space: 银行 replaces the word and its space.
    """
    # Half of all forms are there already: translations that several words share, nouns with capitals of their own.
    numbers = {word: number for number, word in enumerate(dict.fromkeys(chain.from_iterable(cases)))}
    blocks = [_encode_words(tokenizer, encoder, list(numbers), spaced) for spaced in (False, True)]
    values = np.concatenate([block.values for block in blocks])
    lengths = np.concatenate([block.lengths for block in blocks])
    case_rows = np.array([[numbers[word] for word in case] for case in cases], dtype=np.int64)
    word, form = np.divmod(np.arange(NUM_FORMS * len(is_spaced)), NUM_FORMS)
    behind_space = ((form % 2) & is_spaced[word]) * len(numbers)
    as_written = behind_space + case_rows[0][word]
    row = behind_space + case_rows[np.minimum(form // 2, len(cases) - 1), word]
    # A vocabulary may lack a capital: the form as written stands in.
    row = np.where(lengths[row] > 0, row, as_written)
    return _Forms(Ragged(values, np.concatenate(([0], np.cumsum(lengths)))), row)


def _encode_words(tokenizer: Tokenizer, encoder: Encoder, words: Sequence[str], spaced: bool) -> Ragged:
    """Return the ids of each word as `Tokenizer.encode_word` gives them; none if one of them is special."""
    rows = _encode_lines(tokenizer, encoder, words, spaced)
    begins_spaced = np.array([data[:1] == b" " for data in tokenizer.token_bytes])
    lengths = rows.lengths.copy()
    is_right = lengths > 0
    is_right[is_right] = begins_spaced[rows.values[rows.offsets[:-1][is_right]]] == spaced
    values = rows.values
    if not is_right.all():
        wrong = np.flatnonzero(~is_right)
        again = tokenizer.encode_words([words[i] for i in wrong], spaced)
        kept, _ = rows.take(np.flatnonzero(is_right))
        lengths[wrong] = [len(ids) for ids in again]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        values = np.empty(int(offsets[-1]), dtype=np.int32)
        is_old = np.repeat(is_right, lengths)
        values[is_old] = kept
        values[~is_old] = [index for ids in again for index in ids]
    is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
    is_special[list(tokenizer.special_ids)] = True
    if not is_special[values].any():
        return Ragged(values, np.concatenate(([0], np.cumsum(lengths))))
    spoilt = np.bincount(np.repeat(np.arange(len(words)), lengths), is_special[values], len(words)) > 0
    values = values[~np.repeat(spoilt, lengths)]
    lengths[spoilt] = 0
    return Ragged(values, np.concatenate(([0], np.cumsum(lengths))))


def _encode_lines(tokenizer: Tokenizer, encoder: Encoder, words: Sequence[str], spaced: bool) -> Ragged:
    """Return what follows each line break of texts with a word a line; all empty where those can't be told."""
    nothing = Ragged(np.empty(0, dtype=np.int32), np.zeros(len(words) + 1, dtype=np.int64))
    break_ids = tokenizer.encode("\n")
    if not words or not break_ids:
        return nothing
    before = "\n " if spaced else "\n"
    texts = [
        before + before.join(words[start : start + _WORDS_PER_TEXT]) for start in range(0, len(words), _WORDS_PER_TEXT)
    ]
    ids, lengths = encoder.encode(texts)
    is_break = ids == break_ids[-1]
    breaks = np.flatnonzero(is_break)
    if len(breaks) != len(words) or sum(text.count("\n") for text in texts) != len(words):
        return nothing
    # What a library puts before the first line break of a text belongs to no word.
    text_starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    first_breaks = breaks[::_WORDS_PER_TEXT]
    prefix_lengths = first_breaks - text_starts
    is_word = ~is_break
    is_word[spread(text_starts, prefix_lengths)] = False
    ends = np.cumsum(is_word)
    offsets = np.append(ends[breaks], ends[-1])
    return Ragged(ids[is_word], offsets)
