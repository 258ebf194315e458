"""The first half of a piece's way: text in, token ids out, with sentences and the tokens around documents.

It needs no lexicon: it can begin while that is compiled.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.dataset.indexed import optimal_dtype
from megatron_prealign.errors import DataError
from megatron_prealign.text.documents import TextBatch, read_texts
from megatron_prealign.text.encoders import Backend, Encoder, make_encoder
from megatron_prealign.text.files import Piece
from megatron_prealign.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodingSettings:
    """All that the ids of a text depend on."""

    tokenizer_path: str
    tokenizer_fingerprint: str
    backend: Backend
    json_key: str
    bos_id: int | None
    eod_id: int | None
    sentence_language: str | None


class SentenceSplitter:
    """Splits text of one language with nltk's Punkt model, which must be on disk: nothing is downloaded."""

    def __init__(self, language: str) -> None:
        """Load the model.

        Args:
            language: Its English name, as Punkt's models are named: english, german, ...

        Raises:
            DataError: If the model is not on disk.
        """
        from nltk.tokenize import PunktTokenizer  # deferred: most bakes do not need it

        try:
            self._tokenizer = PunktTokenizer(language)
        except LookupError:
            raise DataError(
                f"--split-sentences: no Punkt model {language!r} on this machine; unpack nltk's punkt_tab.zip to "
                f"{Path('nltk_data', 'tokenizers')} in your home folder, or name its parent in NLTK_DATA"
            ) from None

    def split(self, text: str) -> list[str]:
        """Return the sentences of a text, without the white space between them."""
        sentences: list[str] = self._tokenizer.tokenize(text)
        return sentences


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


class Stopped(Exception):  # noqa: N818 - no error: another piece failed
    """The bake has ended for another reason; the piece is left unfinished."""


class PieceEncoder:
    """Reads and encodes pieces, in one process."""

    def __init__(
        self,
        settings: EncodingSettings,
        tokenizer: Tokenizer,
        is_parallel: bool = False,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Load the backend.

        Args:
            settings: How to encode.
            tokenizer: The one that the settings name.
            is_parallel: Whether the tokenizer may use threads.
            is_stopped: Asked at every batch whether to give up.
        """
        self.settings = settings
        self.tokenizer = tokenizer
        self.encoder = make_encoder(self.tokenizer, settings.backend, is_parallel)
        self._splitter = SentenceSplitter(settings.sentence_language) if settings.sentence_language else None
        self._is_stopped = is_stopped

    def batches(self, piece: Piece) -> Iterator[tuple[TextBatch, EncodedDocuments]]:
        """Yield a piece batch by batch, text and ids.

        Raises:
            DataError: If the tokenizer is not the one that the bake was begun with, or the file can't be read.
            Stopped: If asked to.
        """
        settings = self.settings
        if self.tokenizer.fingerprint != settings.tokenizer_fingerprint:
            raise DataError(f"{self.tokenizer.path}: changed since the bake began; start again with --overwrite")
        for batch in read_texts(piece, settings.json_key):
            if self._is_stopped():
                raise Stopped
            yield batch, encode_documents(batch.texts, self.encoder, self._splitter, settings.bos_id, settings.eod_id)

    def encode_ahead(self, piece: Piece, path: Path) -> Path | None:
        """Write the ids of a whole piece to a file, for `read_ahead`; None where anything is wrong with it.

        What that is, is said when the piece is baked.
        """
        dtype = optimal_dtype(self.tokenizer.vocab_size)
        try:
            with path.open("wb") as file:
                for batch, documents in self.batches(piece):
                    if batch.bad_lines:
                        return None
                    tokens = documents.tokens.astype(dtype)
                    for array in (tokens, documents.sequence_lengths, documents.sequences_per_document):
                        np.save(file, array, allow_pickle=False)
        except (DataError, OSError, Stopped):
            return None
        return path


def read_ahead(path: Path) -> Iterator[EncodedDocuments]:
    """Yield what `PieceEncoder.encode_ahead` wrote, batch by batch."""
    with path.open("rb") as file:
        while file.peek(1):
            yield EncodedDocuments(*(np.load(file, allow_pickle=False) for _ in range(3)))


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
