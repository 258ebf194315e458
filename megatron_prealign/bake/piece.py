"""One piece of the bake: a part of the input in, a shard out. This is what every worker runs, wherever it is."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np

from megatron_prealign.bake.encoding import EncodedDocuments, PieceEncoder, read_ahead
from megatron_prealign.bake.job import Job
from megatron_prealign.codeswitch.codeswitch import SwitchCounts, Switched, codeswitch
from megatron_prealign.codeswitch.draws import document_keys, mix
from megatron_prealign.codeswitch.labels import RECORD_INTS
from megatron_prealign.codeswitch.word_forms import WordEncoder
from megatron_prealign.dataset.indexed import IndexedWriter, optimal_dtype
from megatron_prealign.errors import NUM_SHOWN, DataError, Problems
from megatron_prealign.files import atomic_file, atomic_text_file
from megatron_prealign.text.documents import TextBatch, locate
from megatron_prealign.text.tokenizer import load_tokenizer


class PieceBaker:
    """Bakes pieces of one job, in one process."""

    def __init__(self, job: Job, encoder: PieceEncoder) -> None:
        """Map the lexicon.

        Args:
            job: Whose pieces.
            encoder: Made of the job's settings.
        """
        self._job = job
        self._encoder = encoder
        self._vocab_size = encoder.tokenizer.vocab_size
        self._table = job.table(WordEncoder(encoder.tokenizer, encoder.encoder))

    def __call__(self, number: int, ahead: Path | None = None) -> int:
        """Bake a piece unless its shard is there; return the piece's number.

        Args:
            number: Which piece.
            ahead: The file that `PieceEncoder.encode_ahead` made of it, if it was asked.

        Raises:
            DataError: If the file can't be read, or a line is unusable and the job does not skip those.
            Stopped: If asked to.
        """
        job = self._job
        if job.mark_path(number).exists():
            return number
        prefix = job.shard_prefix(number)
        counts = SwitchCounts()
        skipped = Problems()
        suffixes = (".bin", ".idx", ".switch.bin", ".switch.idx")
        with ExitStack() as stack:
            bin_path, idx_path, switch_bin_path, switch_idx_path = (
                stack.enter_context(atomic_file(f"{prefix}{suffix}", overwrite=True)) for suffix in suffixes
            )
            dtype = optimal_dtype(self._vocab_size)
            with (
                IndexedWriter(bin_path, idx_path, dtype, self._vocab_size - 1) as tokens,
                IndexedWriter(switch_bin_path, switch_idx_path, np.int32) as switches,
            ):
                for encoded in read_ahead(ahead) if ahead else self._encode(number, skipped):
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
        for batch, encoded in self._encoder.batches(self._job.pieces[number]):
            if batch.bad_lines:
                self._note(number, batch, skipped)
            yield encoded

    def _note(self, number: int, batch: TextBatch, skipped: Problems) -> None:
        room = NUM_SHOWN - len(skipped.shown)
        shown = batch.bad_lines[:room]
        places = locate(self._job.pieces[number], [index for index, _ in shown]) if shown else []
        for place, (_, problem) in zip(places, shown, strict=True):
            skipped.add(f"{place}: {problem}")
        skipped.count += len(batch.bad_lines) - len(shown)
        if self._job.settings.on_error == "fail":
            skipped.raise_if_any(is_all=False)

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
    """Bake every `world_size`-th piece of a work folder, and leave there what is wrong with them.

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
        job.report_problems(number, error.problems if isinstance(error, DataError) else [str(error)])
        raise
