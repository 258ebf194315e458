"""One piece of the bake: text in, token ids with sentences and frames of documents, switched words, a shard out.

Every worker runs this, wherever it is. Encoding needs no lexicon, so it can begin while the lexicon is compiled.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.bake.job import EncodingSettings, Job
from megatron_prealign.codeswitch.codeswitch import SwitchCounts, Switched, codeswitch
from megatron_prealign.codeswitch.draws import document_keys, mix
from megatron_prealign.codeswitch.labels import RECORD_INTS
from megatron_prealign.codeswitch.word_forms import WordEncoder
from megatron_prealign.dataset.indexed import IndexedWriter, optimal_dtype
from megatron_prealign.dataset.manifest import DATA_SUFFIXES
from megatron_prealign.errors import NUM_SHOWN, DataError, Problems
from megatron_prealign.files import atomic_file, atomic_text_file
from megatron_prealign.text.backends import make_encoder
from megatron_prealign.text.documents import TextBatch, locate, read_texts
from megatron_prealign.text.encoders import Encoder
from megatron_prealign.text.files import Piece
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer

SentenceSplitter = Callable[[str], list[str]]
"""Returns the sentences of a text, without the white space between them."""


def load_splitter(language: str) -> SentenceSplitter:
    """Load nltk's Punkt model of a language by its English name: english, german, ...; nothing is downloaded.

    Raises:
        DataError: If the model is not on disk.
    """
    from nltk.tokenize import PunktTokenizer  # deferred: most bakes do not need it

    try:
        splitter: SentenceSplitter = PunktTokenizer(language).tokenize
    except LookupError:
        raise DataError(
            f"--split-sentences: no Punkt model {language!r} on this machine; unpack nltk's punkt_tab.zip to "
            f"{Path('nltk_data', 'tokenizers')} in your home folder, or name its parent in NLTK_DATA"
        ) from None
    return splitter


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
    """Encode documents between `bos_id` and `eod_id`; an empty one stays empty, as in Megatron's preprocessing."""
    if splitter is None:
        ids, lengths = encoder.encode(texts)
        per_document = (lengths > 0).astype(np.int64)
    else:
        sentences = [splitter(text) for text in texts]
        ids, lengths = encoder.encode(list(chain.from_iterable(sentences)))
        owners = np.repeat(np.arange(len(texts)), [len(part) for part in sentences])
        per_document = np.bincount(owners[lengths > 0], minlength=len(texts))
    lengths = lengths[lengths > 0]
    if bos_id is not None or eod_id is not None:
        ids, lengths = _frame(ids, lengths, per_document, bos_id, eod_id)
    return EncodedDocuments(ids, lengths, per_document)


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
        """Load the encoder; it may use threads if `is_parallel`, and `is_stopped` is asked at every batch."""
        self.settings = settings
        self.tokenizer = tokenizer
        self.encoder = make_encoder(tokenizer, settings.backend, is_parallel)
        self._splitter = load_splitter(settings.sentence_language) if settings.sentence_language else None
        self._is_stopped = is_stopped

    def batches(self, piece: Piece) -> Iterator[tuple[TextBatch, EncodedDocuments]]:
        """Yield the batches of a piece, text and ids.

        Raises:
            DataError: If the tokenizer changed since the bake began, or the file can't be read.
            Stopped: If `is_stopped`.
        """
        settings = self.settings
        if self.tokenizer.fingerprint != settings.tokenizer_fingerprint:
            raise DataError(f"{self.tokenizer.path}: changed since the bake started; start again with --overwrite")
        for batch in read_texts(piece, settings.json_key):
            if self._is_stopped():
                raise Stopped
            yield batch, encode_documents(batch.texts, self.encoder, self._splitter, settings.bos_id, settings.eod_id)

    def encode_ahead(self, piece: Piece, path: Path) -> Path | None:
        """Write the ids of a whole piece to a file, for `_read_ahead`; return None if anything is wrong with the piece.

        The error is reported when the piece is baked.
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


def _read_ahead(path: Path) -> Iterator[EncodedDocuments]:
    with path.open("rb") as file:
        while file.peek(1):
            yield EncodedDocuments(*(np.load(file, allow_pickle=False) for _ in range(3)))


class PieceBaker:
    """Bakes pieces of one job, in one process."""

    def __init__(self, job: Job, encoder: PieceEncoder) -> None:
        self._job = job
        self._encoder = encoder
        self._vocab_size = encoder.tokenizer.vocab_size
        self._table = job.table(WordEncoder(encoder.tokenizer, encoder.encoder))

    def __call__(self, number: int, ahead: Path | None = None) -> int:
        """Bake a piece unless its shard exists, from the file of `encode_ahead` if any; return the piece's number.

        Raises:
            DataError: If the file can't be read, or a line is unusable and the job does not skip those.
            Stopped: If the encoder was stopped.
        """
        job = self._job
        if job.mark_path(number).exists():
            return number
        counts = SwitchCounts()
        skipped = Problems()
        with ExitStack() as stack:
            bin_path, idx_path, switch_bin_path, switch_idx_path = (
                stack.enter_context(atomic_file(f"{job.shard_prefix(number)}{suffix}", overwrite=True))
                for suffix in DATA_SUFFIXES
            )
            dtype = optimal_dtype(self._vocab_size)
            with (
                IndexedWriter(bin_path, idx_path, dtype, self._vocab_size - 1) as tokens,
                IndexedWriter(switch_bin_path, switch_idx_path, np.int32) as switches,
            ):
                for encoded in _read_ahead(ahead) if ahead else self._encode(number, skipped):
                    switched = self._switch(encoded)
                    counts.add(switched.counts)
                    lengths = np.diff(switched.offsets)
                    tokens.add_documents(switched.tokens, lengths, encoded.sequences_per_document)
                    record_lengths = switched.record_counts * RECORD_INTS
                    switches.add_documents(switched.records.reshape(-1), record_lengths, encoded.sequences_per_document)
                tokens.close()
                switches.close()
        mark = {"documents": tokens.num_documents, "sequences": tokens.num_sequences, "tokens": tokens.num_tokens}
        with atomic_text_file(job.mark_path(number), overwrite=True) as stream:
            json.dump(mark | {"skipped": skipped.count} | asdict(counts) | {"examples": skipped.shown}, stream)
        return number

    def _encode(self, number: int, skipped: Problems) -> Iterator[EncodedDocuments]:
        """Yield the ids of a piece; its unusable lines are added to `skipped`, or raised."""
        piece = self._job.pieces[number]
        for batch, encoded in self._encoder.batches(piece):
            shown = batch.bad_lines[: NUM_SHOWN - len(skipped.shown)]
            places = locate(piece, [index for index, _ in shown]) if shown else []
            for place, (_, problem) in zip(places, shown, strict=True):
                skipped.add(f"{place}: {problem}")
            skipped.count += len(batch.bad_lines) - len(shown)
            if self._job.settings.on_error == "fail":
                skipped.raise_if_any(is_all=False)
            yield encoded

    def _switch(self, encoded: EncodedDocuments) -> Switched:
        settings = self._job.settings
        offsets = np.concatenate(([0], np.cumsum(encoded.sequence_lengths)))
        keys = None
        if settings.sentence_language:
            # A sentence is addressed by its document and its place there: equal sentences draw independently.
            filled = encoded.sequences_per_document[encoded.sequences_per_document > 0]
            starts = np.cumsum(filled) - filled
            places = (np.arange(len(offsets) - 1) - np.repeat(starts, filled)).astype(np.uint64)
            keys = document_keys(encoded.tokens, np.append(offsets[starts], offsets[-1]))
            keys = mix(np.repeat(keys, filled) ^ mix(places))
        return codeswitch(encoded.tokens, offsets, self._table, settings.ratio, settings.seed, keys=keys)


def bake_share(folder: Path, rank: int, world_size: int) -> None:
    """Bake every `world_size`-th piece of a work folder; problems are also left there, for the process that waits.

    Raises:
        DataError: The first problems found.
    """
    job = Job.load(folder)
    number = rank
    try:
        baker = PieceBaker(job, PieceEncoder(job.settings, load_tokenizer(job.settings.tokenizer_path)))
        for number in range(rank, len(job.pieces), world_size):
            baker(number)
    except (DataError, OSError) as error:
        problems = error.problems if isinstance(error, DataError) else [str(error)]
        with atomic_text_file(job.problems_path(number), overwrite=True) as stream:
            json.dump(problems, stream)
        raise
