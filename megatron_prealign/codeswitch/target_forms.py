"""The translations of a compiled lexicon in all their forms, each encoded when it is first drawn.

A lexicon of several languages has millions of forms; a corpus draws some ten thousand of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.word_forms import NUM_FORMS, WordEncoder, in_case
from megatron_prealign.text.ragged import Ragged, spread


@dataclass(frozen=True)
class TargetWords:
    """The translations as text, in flat arrays."""

    text: NDArray[np.uint8]
    """All translations back to back, as UTF-8."""
    offsets: NDArray[np.int64]
    """Where each begins and ends in `text`: [pairs + 1]."""
    is_spaced: NDArray[np.bool_]
    """Whether its language puts spaces between words; 银行 replaces a word and its space: [pairs]."""
    has_dotted_i: NDArray[np.bool_]
    """Whether its language has İ for the capital of i: [pairs]."""

    @classmethod
    def of(cls, words: Sequence[str], is_spaced: NDArray[np.bool_], has_dotted_i: NDArray[np.bool_]) -> "TargetWords":
        """Take words and what holds of the language of each."""
        encoded = [word.encode() for word in words]
        offsets = np.cumsum([0, *map(len, encoded)])
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets, is_spaced, has_dotted_i)

    def __len__(self) -> int:
        """Return the number of translations."""
        return len(self.is_spaced)

    def word(self, number: int) -> str:
        """Return a translation as written."""
        return self.text[self.offsets[number] : self.offsets[number + 1]].tobytes().decode()


class TargetForms:
    """Gives the ids of forms; the number of a form is NUM_FORMS * translation + its number among those of a word."""

    def __init__(self, words: TargetWords, encode: WordEncoder) -> None:
        """Take the translations, each of which `encode` can write.

        Args:
            words: As text.
            encode: Gives their ids.
        """
        self.words = words
        self._encode = encode
        # Pages of zeros cost no memory before they are written.
        self._starts = np.zeros(NUM_FORMS * len(words), dtype=np.int64)
        self._lengths = np.zeros(NUM_FORMS * len(words), dtype=np.int64)  # 0: not encoded yet
        self._ids = np.empty(1024, dtype=np.int32)
        self._num_ids = 0
        # Loaders of several datasets may read ahead in threads of their own.
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
        dotted = self.words.has_dotted_i[numbers]
        texts = [in_case(word, case, has) for word, case, has in zip(words, kinds // 2, dotted, strict=True)]
        is_spaced = (kinds % 2 == 1) & self.words.is_spaced[numbers]
        for spaced in (False, True):
            chosen = np.flatnonzero(is_spaced == spaced)
            rows = self._encode([texts[i] for i in chosen], spaced)
            # A vocabulary may lack a capital: the form as written stands in.
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
