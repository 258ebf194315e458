"""The first half of a piece's way: text in, token ids out. It needs no lexicon: it can begin while that is compiled."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_prealign.bake.documents import TextBatch, read_texts
from megatron_prealign.bake.encoding import EncodedDocuments, encode_documents
from megatron_prealign.bake.inputs import Piece
from megatron_prealign.bake.sentences import SentenceSplitter
from megatron_prealign.dataset.indexed import optimal_dtype
from megatron_prealign.errors import DataError
from megatron_prealign.text.encoders import Backend, make_encoder
from megatron_prealign.text.tokenizer import Tokenizer


class Stopped(Exception):  # noqa: N818 - no error: another piece failed
    """The bake has ended for another reason; the piece is left unfinished."""


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
