"""Words as they appear in text: their case, the space in front of them, and their token ids.

Words are encoded thousands at a time, one per line, and the ids are separated at the line breaks: no library call,
object or loop iteration is spent on a single word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Self

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.text.encoders import Encoder, ReferenceEncoder
from megatron_prealign.text.ragged import Ragged, spread
from megatron_prealign.text.spelling import as_written, capitalise, capitalise_each, equal_spellings, in_capitals
from megatron_prealign.text.tokenizer import Tokenizer

NUM_CASES = 3
NUM_FORMS = 2 * NUM_CASES
"""Forms of a word: 2 * case + spaced, for case as written, Capitalised, CAPITALS, without or with a space before it."""

_WORDS_PER_TEXT = 512


def in_case(word: str, case: int, language: str) -> str:
    """Return a word as written (case 0), Capitalised (1) or in CAPITALS (2)."""
    return (word, capitalise(word, language), in_capitals(word, language))[case]


@dataclass(frozen=True)
class Spellings:
    """How running text may spell words, by precedence: as in the dictionary, in other cases, with equal letters."""

    texts: list[str]
    owners: NDArray[np.int64]
    """The word that each spells: [N]."""
    cases: NDArray[np.int64]
    """Its case, as for `in_case`: [N]."""

    @classmethod
    def of(cls, words: Sequence[str], language: str, case_transfer: bool) -> Self:
        """Spell words of a dictionary, with capitals only for `case_transfer`."""
        written = [as_written(word, language) for word in words]
        texts, owners, cases = written.copy(), list(range(len(words))), [0] * len(words)

        def add(case: int, spelt: Sequence[str], known: Sequence[str]) -> None:
            numbers = [number for number, pair in enumerate(zip(spelt, known, strict=True)) if pair[0] != pair[1]]
            texts.extend(spelt[number] for number in numbers)
            owners.extend(numbers)
            cases.extend([case] * len(numbers))

        if case_transfer:
            capitalised, capitals = ([in_case(word, case, language) for word in written] for case in (1, 2))
            add(1, capitalised, written)
            add(2, capitals, written)
        # As a careless dictionary or typist writes them.
        add(0, words, written)
        if case_transfer:
            add(1, [capitalise_each(word, language) for word in written], capitalised)
            add(2, list(map(str.upper, written)), capitals)
        for number, case, text in zip(owners.copy(), cases.copy(), texts.copy(), strict=True):
            equal = [] if text.isascii() else equal_spellings(text)
            texts += equal
            owners += [number] * len(equal)
            cases += [case] * len(equal)
        return cls(texts, np.array(owners, dtype=np.int64), np.array(cases, dtype=np.int64))


class WordEncoder:
    """Encodes words as they appear inside running text."""

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder | None = None) -> None:
        """Take the tokenizer, and a faster encoder with the same ids; None for the tokenizer's own library."""
        self._tokenizer = tokenizer
        self._encoder = encoder or ReferenceEncoder(tokenizer)
        self._break_ids, _ = self._encoder.encode(["\n"])

    def __call__(self, words: Sequence[str], spaced: bool) -> Ragged:
        """Return the ids of each word, int32, like `Tokenizer.encode_word`; none if one of them is special."""
        rows = self._encode_lines(words, spaced)
        lengths = rows.lengths.copy()
        is_right = lengths > 0
        is_right[is_right] = self._begins_spaced[rows.values[rows.offsets[:-1][is_right]]] == spaced
        if not is_right.all():
            rows = self._encode_again(words, spaced, rows, is_right)
            lengths = rows.lengths.copy()
        is_special = self._is_special[rows.values]
        if not is_special.any():
            return rows
        spoilt = np.bincount(np.repeat(np.arange(len(words)), lengths), is_special, len(words)) > 0
        values = rows.values[~np.repeat(spoilt, lengths)]
        lengths[spoilt] = 0
        return Ragged.of(values, lengths)

    @cached_property
    def _begins_spaced(self) -> NDArray[np.bool_]:
        return np.array([data[:1] == b" " for data in self._tokenizer.token_bytes], dtype=bool)

    @cached_property
    def _is_special(self) -> NDArray[np.bool_]:
        is_special = np.zeros(self._tokenizer.vocab_size, dtype=bool)
        is_special[list(self._tokenizer.special_ids)] = True
        return is_special

    def _encode_again(self, words: Sequence[str], spaced: bool, rows: Ragged, is_right: NDArray[np.bool_]) -> Ragged:
        """Replace the rows that are not right by the tokenizer's ids of the single words."""
        wrong = np.flatnonzero(~is_right)
        again = Ragged.of_rows(self._tokenizer.encode_words([words[i] for i in wrong], spaced))
        kept, _ = rows.take(np.flatnonzero(is_right))
        lengths = rows.lengths.copy()
        lengths[wrong] = again.lengths
        is_old = np.repeat(is_right, lengths)
        values = np.empty(len(is_old), dtype=np.int32)
        values[is_old] = kept
        values[~is_old] = again.values
        return Ragged.of(values, lengths)

    def _encode_lines(self, words: Sequence[str], spaced: bool) -> Ragged:
        """Return the ids after each line break of texts with a word per line; all empty if those can't be separated."""
        nothing = Ragged(np.empty(0, dtype=np.int32), np.zeros(len(words) + 1, dtype=np.int64))
        if not words or not len(self._break_ids):
            return nothing
        before = "\n " if spaced else "\n"
        texts = [
            before + before.join(words[start : start + _WORDS_PER_TEXT])
            for start in range(0, len(words), _WORDS_PER_TEXT)
        ]
        ids, lengths = self._encoder.encode(texts)
        is_break = ids == self._break_ids[-1]
        breaks = np.flatnonzero(is_break)
        if len(breaks) != len(words) or sum(text.count("\n") for text in texts) != len(words):
            return nothing
        # Tokens that a library puts before the first line break of a text belong to no word.
        text_starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        prefix_lengths = breaks[::_WORDS_PER_TEXT] - text_starts
        is_word = ~is_break
        is_word[spread(text_starts, prefix_lengths)] = False
        ends = np.cumsum(is_word)
        return Ragged(ids[is_word], np.append(ends[breaks], ends[-1]))


@dataclass(frozen=True)
class TargetWords(Ragged):
    """Translations as UTF-8, with properties of their languages."""

    is_spaced: NDArray[np.bool_]
    """Whether its language has spaces between words; 银行 replaces a word and its space: [pairs]."""

    @classmethod
    def encode(cls, words: Sequence[str], is_spaced: NDArray[np.bool_]) -> Self:
        """Take words, and whether the language of each has spaces."""
        encoded = [word.encode() for word in words]
        offsets = np.cumsum([0, *map(len, encoded)])
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets, is_spaced)

    def word(self, number: int) -> str:
        """Return a translation as written."""
        word: str = self[number].tobytes().decode()
        return word


class TargetForms:
    """The translations of a compiled lexicon in all their forms, each encoded when it is first drawn.

    A lexicon of several languages has millions of forms; a corpus draws about ten thousand. The number of a form is
    NUM_FORMS * translation + its number among the forms of a word.
    """

    def __init__(
        self, words: TargetWords, languages: NDArray[np.int32], names: Sequence[str], encode: WordEncoder
    ) -> None:
        """Take the translations, each of which `encode` can write, the language of each, and their names."""
        self.words = words
        self._languages, self._names = languages, names
        self._encode = encode
        # Pages of zeros take no memory until they are written.
        self._starts = np.zeros(NUM_FORMS * len(words), dtype=np.int64)
        self._lengths = np.zeros(NUM_FORMS * len(words), dtype=np.int64)  # 0: not encoded yet
        self._ids = np.empty(1024, dtype=np.int32)
        self._num_ids = 0
        # Loaders of several datasets may read ahead in threads.
        self._lock = Lock()

    def take(self, forms: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of some forms back to back, and the number of each."""
        with self._lock:
            missing = forms[self._lengths[forms] == 0]
            if len(missing):
                self._add(np.unique(missing))
            lengths = self._lengths[forms]
            return self._ids[spread(self._starts[forms], lengths)], lengths

    def _add(self, forms: NDArray[np.int64]) -> None:
        """Encode forms and keep their ids."""
        numbers, kinds = np.divmod(forms, NUM_FORMS)
        words = [self.words.word(number) for number in numbers]
        names = [self._names[language] for language in self._languages[numbers]]
        texts = [in_case(word, case, name) for word, case, name in zip(words, kinds // 2, names, strict=True)]
        is_spaced = (kinds % 2 == 1) & self.words.is_spaced[numbers]
        for spaced in (False, True):
            chosen = np.flatnonzero(is_spaced == spaced)
            rows = self._encode([texts[i] for i in chosen], spaced)
            # A vocabulary may lack a capital: use the form as written.
            if (lacking := chosen[rows.lengths == 0]).size:
                for i in lacking:
                    texts[i] = words[i]
                rows = self._encode([texts[i] for i in chosen], spaced)
            self._keep(forms[chosen], rows)

    def _keep(self, forms: NDArray[np.int64], rows: Ragged) -> None:
        stop = self._num_ids + len(rows.values)
        if stop > len(self._ids):
            self._ids = np.concatenate((self._ids[: self._num_ids], np.empty(2 * stop, dtype=np.int32)))
        self._ids[self._num_ids : stop] = rows.values
        self._starts[forms] = self._num_ids + rows.offsets[:-1]
        self._lengths[forms] = rows.lengths
        self._num_ids = stop
