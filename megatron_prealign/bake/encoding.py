"""Documents to packed token ids: sentences, begin- and end-of-document tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.bake.sentences import SentenceSplitter
from megatron_prealign.text.encoders import Encoder


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
