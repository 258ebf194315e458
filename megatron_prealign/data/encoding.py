"""Texts to packed token ids: the backends behind a tokenizer, sentences, begin- and end-of-document tokens."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.data.sentences import SentenceSplitter
from megatron_prealign.data.tokenizer import Tokenizer

Backend = Literal["reference", "gigatoken"]
"""The library that made the tokenizer, or the quicker one that gives the same ids where a probe has shown it."""


class Encoder(ABC):
    """Encodes batches of texts without anything around them."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of all texts back to back, int32 [T], and the number of each, int64 [len(texts)]."""


class ReferenceEncoder(Encoder):
    """Hugging Face's or SentencePiece's own library, in batches."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Keep the tokenizer."""
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return ids and lengths, as `Encoder.encode` says."""
        encoded = self._tokenizer.encode_batch(texts)
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=int(lengths.sum())), lengths


class GigatokenEncoder(Encoder):
    """gigatoken; texts in which an added token is spelt out go to the reference, which keeps special ones text."""

    def __init__(self, tokenizer: Tokenizer, is_parallel: bool) -> None:
        """Load the tokenizer's file again.

        Raises:
            ImportError: If gigatoken is not installed.
            Exception: Whatever gigatoken raises for a tokenizer that it does not support.
        """
        import gigatoken  # deferred: it is optional

        load = gigatoken.Tokenizer if tokenizer.path.suffix == ".json" else gigatoken.Tokenizer.from_sentencepiece
        self._backend: Any = load(str(tokenizer.path))
        self._reference = ReferenceEncoder(tokenizer)
        self._is_parallel = is_parallel
        spelt = "|".join(map(re.escape, sorted(tokenizer.added_tokens, key=len, reverse=True)))
        self._added = re.compile(spelt) if spelt else None

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return ids and lengths, as `Encoder.encode` says."""
        if self._added is None or not any(map(self._added.search, texts)):
            return self._encode(texts)
        parts = []
        for text in texts:
            encode = self._reference.encode if self._added.search(text) else self._encode
            parts.append(encode([text]))
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([lengths for _, lengths in parts])

    def _encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if not texts:
            return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
        if not self._is_parallel:
            # Nearly as fast, and it spares the import of awkward arrays: a third of a second for every process.
            rows = [self._backend.encode(text) for text in texts]
            return np.concatenate(rows).astype(np.int32), np.fromiter(map(len, rows), np.int64, len(rows))
        layout = self._backend.encode_batch(list(texts), parallel=True).layout
        offsets = np.asarray(layout.offsets)
        ids = np.asarray(layout.content.data)[offsets[0] : offsets[-1]]
        return ids.astype(np.int32), np.diff(offsets).astype(np.int64)


def make_encoder(tokenizer: Tokenizer, backend: Backend, is_parallel: bool) -> Encoder:
    """Return the encoder of a backend."""
    return GigatokenEncoder(tokenizer, is_parallel) if backend == "gigatoken" else ReferenceEncoder(tokenizer)


def probe_gigatoken(tokenizer: Tokenizer, texts: Sequence[str]) -> str | None:
    """Return why gigatoken can't stand in for a tokenizer's own library, or None where its ids are the same.

    Args:
        tokenizer: The reference.
        texts: A probe of the corpus.
    """
    try:
        encoder = GigatokenEncoder(tokenizer, is_parallel=False)
    except ImportError:
        return "it is not installed"
    except Exception as error:  # the library's own, for kinds of tokenizers that it does not know
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"it does not take this tokenizer ({reason})"
    ids, lengths = encoder.encode(texts)
    expected, expected_lengths = ReferenceEncoder(tokenizer).encode(texts)
    if not np.array_equal(lengths, expected_lengths) or not np.array_equal(ids, expected):
        return "its ids differ from the tokenizer's own library on a probe of the corpus"
    return None


@dataclass(frozen=True)
class EncodedDocuments:
    """Token ids of documents, each a run of sequences: itself, or its sentences."""

    tokens: NDArray[np.int32]
    """All documents back to back: [T]."""
    sequence_lengths: NDArray[np.int64]
    """Tokens of each sequence, none of them empty: [S]."""
    sequences_per_document: NDArray[np.int64]
    """0 for an empty document: [D]."""


def encode_documents(
    texts: Sequence[str],
    encoder: Encoder,
    splitter: SentenceSplitter | None = None,
    bos_id: int | None = None,
    eod_id: int | None = None,
) -> EncodedDocuments:
    """Encode documents; an empty one stays empty, as in Megatron's preprocessing.

    Args:
        texts: The documents.
        encoder: Gives ids.
        splitter: Cuts documents into sentences; None for none.
        bos_id: Token to begin every document with, or None.
        eod_id: Token to end every document with, or None.
    """
    if splitter is None:
        ids, lengths = encoder.encode(texts)
        per_document = (lengths > 0).astype(np.int64)
    else:
        sentences = [splitter.split(text) for text in texts]
        ids, lengths = encoder.encode(list(chain.from_iterable(sentences)))
        owners = np.repeat(np.arange(len(texts)), [len(part) for part in sentences])
        per_document = np.bincount(owners[lengths > 0], minlength=len(texts))
    lengths = lengths[lengths > 0]
    if bos_id is not None or eod_id is not None:
        ids, lengths = _frame(ids, lengths, per_document, bos_id, eod_id)
    return EncodedDocuments(ids, lengths, per_document)


def probe_of(batches: Iterable[Sequence[str]], num_bytes: int) -> list[str]:
    """Return the first texts of a corpus, about so many bytes of them."""
    probe: list[str] = []
    for text in chain.from_iterable(batches):
        probe.append(text)
        num_bytes -= len(text.encode())
        if num_bytes <= 0:
            break
    return probe


def limit_threads(num_threads: int) -> None:
    """Let the tokenizer libraries of this process use so many threads; before their first call."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if num_threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(num_threads)


def _frame(
    ids: NDArray[np.int32],
    lengths: NDArray[np.int64],
    per_document: NDArray[np.int64],
    bos_id: int | None,
    eod_id: int | None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Put tokens at both ends of every document that is not empty; None for no token."""
    framed_lengths = lengths.copy()
    ends = np.cumsum(per_document)[per_document > 0]
    firsts, lasts = ends - per_document[per_document > 0], ends - 1
    framed_lengths[firsts] += bos_id is not None
    framed_lengths[lasts] += eod_id is not None
    offsets = np.concatenate(([0], np.cumsum(framed_lengths)))
    framed = np.empty(int(offsets[-1]), dtype=np.int32)
    is_text = np.ones(len(framed), dtype=bool)
    for token, positions in ((bos_id, offsets[firsts]), (eod_id, offsets[lasts + 1] - 1)):
        if token is not None:
            framed[positions] = token
            is_text[positions] = False
    framed[is_text] = ids
    return framed, framed_lengths
