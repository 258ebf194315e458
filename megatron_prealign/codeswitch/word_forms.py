"""Words as they stand in text: the case they take, the space in front of them, and their token ids.

Words are encoded thousands at a time, a line each, and the ids are cut at the line breaks: no library call, object or
loop iteration is spent on a single word.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.text.encoders import Encoder, ReferenceEncoder
from megatron_prealign.text.ragged import Ragged, spread
from megatron_prealign.text.tokenizer import Tokenizer

NUM_CASES = 3
NUM_FORMS = 2 * NUM_CASES
"""Forms of a word: 2 * case + spaced, for case as written, Capitalised, CAPITALS, behind no space or behind one."""

_WORDS_PER_TEXT = 512
# Languages in which i and ı are two letters, with the capitals İ and I.
_DOTTED_I = frozenset(("tr", "tur", "az", "aze"))


def has_dotted_i(language: str) -> bool:
    """Tell whether a language has İ for the capital of i."""
    return language.partition("-")[0] in _DOTTED_I


def in_case(word: str, case: int, dotted_i: bool) -> str:
    """Return a word as written (case 0), Capitalised (1) or in CAPITALS (2)."""
    if case == 0:
        return word
    if case == 1:
        # The only letter whose capital depends on the language.
        return ("İ" if dotted_i and word[:1] == "i" else word[:1].title()) + word[1:]
    return (word.replace("i", "İ") if dotted_i else word).upper()


class WordEncoder:
    """Gives the ids of words as they stand inside running text."""

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder | None = None) -> None:
        """Keep the tokenizer.

        Args:
            tokenizer: Whose ids are wanted.
            encoder: A quicker one that gives the same ids; None for the tokenizer's own library.
        """
        self._tokenizer = tokenizer
        self._encoder = encoder or ReferenceEncoder(tokenizer)
        self._break_ids, _ = self._encoder.encode(["\n"])

    def __call__(self, words: Sequence[str], spaced: bool) -> Ragged:
        """Return the ids of each word, int32, as `Tokenizer.encode_word` gives them; none if one of them is special."""
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
        """Replace the rows that are not right by what the tokenizer gives word for word."""
        wrong = np.flatnonzero(~is_right)
        again = self._tokenizer.encode_words([words[i] for i in wrong], spaced)
        kept, _ = rows.take(np.flatnonzero(is_right))
        lengths = rows.lengths.copy()
        lengths[wrong] = [len(ids) for ids in again]
        is_old = np.repeat(is_right, lengths)
        values = np.empty(len(is_old), dtype=np.int32)
        values[is_old] = kept
        values[~is_old] = [index for ids in again for index in ids]
        return Ragged.of(values, lengths)

    def _encode_lines(self, words: Sequence[str], spaced: bool) -> Ragged:
        """Return what follows each line break of texts with a word a line; all empty where those can't be told."""
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
        # What a library puts before the first line break of a text belongs to no word.
        text_starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        prefix_lengths = breaks[::_WORDS_PER_TEXT] - text_starts
        is_word = ~is_break
        is_word[spread(text_starts, prefix_lengths)] = False
        ends = np.cumsum(is_word)
        return Ragged(ids[is_word], np.append(ends[breaks], ends[-1]))
