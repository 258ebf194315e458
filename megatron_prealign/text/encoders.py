"""Encoders of a tokenizer with its own library: batches of texts to packed token ids."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.text.ragged import Ragged
from megatron_prealign.text.tokenizer import Tokenizer

# A space between two characters that are not white space begins a chunk. The literal space in front lets the search
# skip to the next one.
_GAP = re.compile(r" (?<=\S )(?=\S)")
# Most tokens kept; a chunk has about two, and costs about 150 bytes more.
_MAX_TOKENS = 1 << 19
_GROUP = 32
_NO_ROWS = Ragged.of_rows([])


class Encoder(ABC):
    """Encodes batches of texts, without special tokens."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of all texts back to back, int32 [T], and the number of each, int64 [len(texts)]."""


class ReferenceEncoder(Encoder):
    """Hugging Face's or SentencePiece's own library, in batches."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Encode with the library."""
        rows = Ragged.of_rows(self._tokenizer.encode_batch(texts))
        return rows.values, rows.lengths


class _Numbers(dict[str, int]):
    """Numbers chunks in order of first use."""

    def __init__(self) -> None:
        super().__init__()
        self.unseen: list[str] = []

    def __missing__(self, chunk: str) -> int:
        self[chunk] = number = len(self)
        self.unseen.append(chunk)
        return number


class ChunkedEncoder(Encoder):
    """The same library, asked once for each distinct chunk between spaces; for tokenizers with `splits_at_spaces`.

    Words repeat in running text, and looking a chunk up is much faster than encoding it. Memory is bounded.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._spaced = frozenset(index for index, spelt in enumerate(tokenizer.token_bytes) if spelt.startswith(b" "))
        self._numbers = _Numbers()
        self._rows = _NO_ROWS

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Encode the chunks that are new, and look up all others."""
        chunks = [_GAP.split(text) for text in texts]
        counts = np.fromiter(map(len, chunks), np.int64, len(chunks))
        firsts = np.cumsum(counts) - counts
        # A text begins without a space, so its first chunk differs from the same letters later in the text.
        heads = [parts.pop(0) for parts in chunks]
        is_first = np.zeros(int(counts.sum()), dtype=bool)
        is_first[firsts] = True
        numbers = np.empty(len(is_first), dtype=np.int64)
        lookup = map(self._numbers.__getitem__, chain.from_iterable(chunks))
        numbers[~is_first] = np.fromiter(lookup, np.int64, len(numbers) - len(heads))
        self._rows = self._rows.joined(Ragged.of_rows(self._encode_chunks(self._numbers.unseen)))
        self._numbers.unseen.clear()
        numbers[is_first] = len(self._numbers) + np.arange(len(heads))
        ids, lengths = self._rows.joined(Ragged.of_rows(self._tokenizer.encode_batch(heads))).take(numbers)
        if len(self._rows.values) > _MAX_TOKENS:
            self._numbers, self._rows = _Numbers(), _NO_ROWS
        return ids, np.add.reduceat(lengths, firsts) if len(firsts) else lengths

    def _encode_chunks(self, chunks: Sequence[str]) -> list[list[int]]:
        """Return the ids of each chunk, including the space in front of it.

        Many short texts cost the library more than few long ones: groups of chunks are encoded, and their ids separated
        at the tokens that begin with a space, if there are as many.
        """
        groups = [chunks[start : start + _GROUP] for start in range(0, len(chunks), _GROUP)]
        rows: list[list[int]] = []
        for group, ids in zip(
            groups, self._tokenizer.encode_batch([" " + " ".join(group) for group in groups]), strict=True
        ):
            starts = [position for position, token in enumerate(ids) if token in self._spaced]
            # The last chunk of a text may end with white space, which the next chunk of the group would change.
            if len(starts) == len(group) and not any(chunk[-1].isspace() for chunk in group):
                rows += [ids[start:stop] for start, stop in pairwise([*starts, len(ids)])]
            else:
                rows += self._tokenizer.encode_batch([" " + chunk for chunk in group])
        return rows


def limit_threads(num_threads: int) -> None:
    """Limit the threads of the tokenizer libraries in this process; call it before they are used."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if num_threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(num_threads)
