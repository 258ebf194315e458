"""Training samples from a baked dataset: megatron-core's packing, with labels from the switch records.

Legend: ``S`` sequence length, ``T`` tokens of one epoch.
"""

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from megatron.core.datasets import helpers
from megatron.core.datasets.blended_megatron_dataset_config import (
    convert_split_vector_to_split_matrix,
    parse_and_normalize_split,
)
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split
from numpy.typing import NDArray

from megatron_prealign.codeswitch.labels import (
    IGNORE,
    RECORD_INTS,
    LabelMode,
    apply_switch_records,
    original_word_positions,
)
from megatron_prealign.dataset.index_cache import IndexCache
from megatron_prealign.dataset.manifest import read_manifest
from megatron_prealign.errors import DataError, TrainingError


@dataclass
class CodeSwitchDatasetConfig(GPTDatasetConfig):  # type: ignore[misc]
    """megatron-core's dataset configuration, and how switched words become labels."""

    label_mode: LabelMode = "input-only"
    """What a switched position predicts: the original word, the switched text, or nothing."""
    language_numbers: Mapping[str, int] = field(default_factory=dict)
    """Number of the language of each prefix; 0 if not named."""
    cache: IndexCache = field(default_factory=IndexCache)
    """Where the sample index is kept."""


class CodeSwitchDataset(GPTDataset):  # type: ignore[misc]
    """GPTDataset of a baked prefix whose labels follow the switch records (PreAlign sec. 3.2).

    It differs from its base in three ways:

    * the sample order of each epoch is a function of (seed, epoch) alone, so a longer run begins with the samples of a
      shorter one; the first epoch is the base class's order for one epoch,
    * the index cache is keyed by the manifest's content hash, so a re-bake is never served stale,
    * loss masks are new for every sample (the base returns its cached tensor once).
    """

    config: CodeSwitchDatasetConfig
    index_names: tuple[str, ...] = ("document", "sample", "shuffle")
    """What is cached."""

    def __init__(
        self,
        indexed_dataset: IndexedDataset,
        dataset_path: str,
        indexed_indices: NDArray[Any],
        num_samples: int | None,
        index_split: Split,
        config: CodeSwitchDatasetConfig,
    ) -> None:
        """Open the switch records next to the tokens, then build or load the sample index.

        Arguments are those of the base class: `indexed_indices` are the sequences of the split, and without
        `num_samples` there is one epoch.

        Raises:
            DataError: if the manifest is missing or the split has no full sample.
        """
        manifest = read_manifest(dataset_path)
        self._content_hash = manifest.content_hash
        self._switches = IndexedDataset(f"{dataset_path}.switch") if manifest.has_switches else None
        super().__init__(indexed_dataset, dataset_path, indexed_indices, num_samples, index_split, config)
        self._position_ids = torch.arange(config.sequence_length)
        self._language_number = config.language_numbers.get(dataset_path, 0)

    def __getitem__(self, idx: int | None) -> dict[str, torch.Tensor]:
        """Return one sample.

        Args:
            idx: position in the sample order; None = a sample of loss mask 0 (padding of a batch).

        Returns:
            tokens, labels and position_ids: int64 [S]; loss_mask: float32 [S]. Ignored labels are 0 with mask 0.
            loss_group: int16 [S], the group of a position in the reported losses: twice the number of the language,
            plus 1 if the label is a switch's original word.

        Raises:
            TrainingError: if there is an id that the tokenizer does not have.
        """
        tokens, labels, is_original = self.streams(0 if idx is None else int(idx))
        self._check_ids(np.concatenate((tokens, labels[labels != IGNORE])))
        inputs, targets = tokens[:-1], labels[1:]
        counted = targets != IGNORE
        if self.config.eod_mask_loss:
            counted &= inputs != self.config.tokenizer.eod
        if idx is None:
            counted[:] = False
        return {
            "tokens": torch.from_numpy(inputs.copy()),
            "labels": torch.from_numpy(np.where(targets == IGNORE, 0, targets)),
            "loss_mask": torch.from_numpy(counted.astype(np.float32)),
            "position_ids": self._positions(inputs),
            "loss_group": torch.from_numpy((2 * self._language_number + is_original[1:]).astype(np.int16)),
        }

    def _check_ids(self, ids: NDArray[Any]) -> None:
        """Refuse ids outside the embedding, which a GPU reports late and without their place."""
        lowest, highest, size = int(ids.min(initial=0)), int(ids.max(initial=0)), self.config.tokenizer.vocab_size
        if lowest < 0 or highest >= size:
            raise TrainingError(
                f"{self.dataset_path}: contains the token id {lowest if lowest < 0 else highest}, the tokenizer has 0 "
                f"to {size - 1}: damaged after its bake; check it with tools/verify_dataset.py and bake it again"
            )

    def _positions(self, inputs: NDArray[Any]) -> torch.Tensor:
        """Return the positions of input tokens: int64 [S], restarting in each document if so configured."""
        if not self.config.reset_position_ids:
            return self._position_ids.clone()
        positions = np.arange(len(inputs))
        begins = np.zeros_like(positions)
        begins[1:] = np.where(inputs[:-1] == self.config.tokenizer.eod, positions[1:], 0)
        return torch.from_numpy(positions - np.maximum.accumulate(begins))

    def streams(self, idx: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
        """Return tokens, unshifted labels, and where these are a switch's original word: int64, int64, bool [S + 1]."""
        tokens, labels, is_original = [], [], np.zeros(self.config.sequence_length + 1, dtype=np.bool_)
        done = 0
        for sequence, start, length in self._pieces(idx):
            piece, records = self._read(sequence, start, length)
            tokens.append(piece)
            labels.append(apply_switch_records(piece, records, self.config.label_mode, offset=start))
            if self.config.label_mode == "input-only":
                is_original[done + original_word_positions(records, length, offset=start)] = True
            done += length
        return np.concatenate(tokens), np.concatenate(labels), is_original

    def _pieces(self, idx: int) -> Iterator[tuple[int, int, int]]:
        """Yield (sequence, first token, number of tokens) of the documents of a sample."""
        row = int(self.shuffle_index[idx])
        (first, start), (last, stop) = self.sample_index[row].tolist(), self.sample_index[row + 1].tolist()
        for position in range(first, last + 1):
            sequence = int(self.document_index[position])
            begin = start if position == first else 0
            end = stop + 1 if position == last else int(self._lengths[sequence])
            if end > begin:
                yield sequence, begin, end - begin

    def _read(self, sequence: int, start: int, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return tokens of a sequence, int64 [length], and the switch records that may touch them, int [n, 4]."""
        tokens = self.dataset.get(sequence, offset=start, length=length).astype(np.int64)
        return tokens, self._records(sequence, start, start + length)

    @property
    def _lengths(self) -> NDArray[np.int32]:
        """Tokens of each sequence that `document_index` names."""
        lengths: NDArray[np.int32] = self.dataset.sequence_lengths
        return lengths

    def _records(self, sequence: int, start: int, stop: int) -> NDArray[Any]:
        """Return the switch records of a sequence that may touch tokens [start, stop): int [n, 4]."""
        if self._switches is None:
            return np.empty((0, RECORD_INTS), dtype=np.int32)
        records: NDArray[Any] = self._switches[sequence].reshape(-1, RECORD_INTS)
        # Bisection touches few pages of the map, where a comparison of the column would read every record of a
        # long document. The record before the first start may reach into the piece.
        low = bisect.bisect_left(records, start, key=_record_start)
        high = bisect.bisect_left(records, stop, key=_record_start)
        return records[max(low - 1, 0) : high]

    def _build_document_sample_shuffle_indices(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Build or load the (document, sample, shuffle) indices; the base class's hook.

        The base keys its cache by path and number of samples and shuffles all epochs together: a re-bake would
        be served stale and a longer run would see another order.
        """
        first, last = (int(self.indices[end]) for end in (0, -1)) if len(self.indices) else (0, -1)
        description = {
            "content_hash": self._content_hash,
            "sequences": [first, last],
            "sequence_length": self.config.sequence_length,
            "seed": self.config.random_seed,
            **self._order_identifiers(),
        }
        name = f"{type(self).__name__}-{self.index_split.name}"
        return self._take_arrays(self.config.cache.get(name, description, self.index_names, self._build_arrays))

    def _order_identifiers(self) -> dict[str, Any]:
        """Return other dependencies of the order besides content, sequences, their length and the seed."""
        return {"num_epochs": self._num_epochs()}

    def _build_arrays(self) -> tuple[NDArray[Any], ...]:
        """Return what is cached: document_index int32 [epochs * documents], sample_index, shuffle_index."""
        num_epochs = self._num_epochs()
        ends = self._get_num_tokens_per_epoch() * np.arange(1, num_epochs + 1)
        documents = [self.indices.astype(np.int32)] * num_epochs
        length, seed = self.config.sequence_length, self.config.random_seed
        return order_samples(self.dataset.sequence_lengths, documents, ends, length, seed)

    def _take_arrays(self, arrays: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the (document, sample, shuffle) indices out of what was cached."""
        document_index, sample_index, shuffle_index = arrays
        return document_index, sample_index, shuffle_index

    def _num_epochs(self) -> int:
        """Return the epochs that hold num_samples samples."""
        sequence_length = self.config.sequence_length
        num_tokens: int = self._get_num_tokens_per_epoch()
        if num_tokens <= sequence_length:
            lengths = self.dataset.sequence_lengths[self.indices]
            raise DataError(no_full_sample(self.dataset_path, self.index_split, lengths, sequence_length))
        if self.num_samples is None:
            return 1
        return max(1, int(-(-(self.num_samples * sequence_length + 1) // num_tokens)))


def order_samples(
    lengths: NDArray[np.int32], documents: Sequence[NDArray[np.int32]], ends: NDArray[np.int64], length: int, seed: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the (document, sample, shuffle) indices of some epochs, each a function of (seed, epoch) alone.

    Args:
        lengths: int32, tokens of each sequence.
        documents: the sequences of each epoch, as positions in `lengths`.
        ends: int64 [epochs], tokens up to the end of each epoch.
        length: tokens of a sample.
        seed: seed of the order.
    """
    # Samples are packed across epochs; the last one of an epoch may end in the next.
    borders = ((ends - 1) // length).tolist()
    shuffle_index = np.arange(borders[-1], dtype=np.uint32 if borders[-1] < 2**32 else np.int64)
    shuffled = []
    for epoch, (start, stop) in enumerate(zip([0, *borders], borders, strict=False)):
        # Epoch 0 draws as the base class does, in its order: documents, then samples.
        random_state = np.random.RandomState(seed if epoch == 0 else [seed, epoch])
        shuffled.append(random_state.permutation(documents[epoch]))
        random_state.shuffle(shuffle_index[start:stop])
    document_index = np.concatenate(shuffled)
    # One epoch of all tokens: the helper only multiplies the two.
    sample_index = helpers.build_sample_idx(lengths, document_index, length, 1, int(ends[-1]), True, True)
    return document_index, sample_index, shuffle_index


def open_indexed(prefix: str) -> IndexedDataset:
    """Open the token sequences of a dataset; a damaged index is a DataError."""
    try:
        return IndexedDataset(prefix)
    except Exception as error:
        # megatron-core only asserts its assumptions, and numpy maps what the index claims.
        raise DataError(f"{prefix}.idx: not a dataset index ({str(error) or 'inconsistent'}); bake it again") from None


def split_range(num_sequences: int, split: str, part: Split) -> tuple[int, int]:
    """Return the first sequence of a part of a dataset, and the one after its last, rounded like megatron-core."""
    borders = convert_split_vector_to_split_matrix(parse_and_normalize_split(split))[part.value] or (0.0, 0.0)
    start, stop = (round(border * float(num_sequences)) for border in borders)
    return start, stop


def split_problem(prefix: str, split: str, part: Split, sequence_length: int) -> str | None:
    """Return the message if a part of a dataset can't fill one sample."""
    dataset = open_indexed(prefix)
    start, stop = split_range(len(dataset), split, part)
    lengths = dataset.sequence_lengths[start:stop]
    if np.sum(lengths, dtype=np.int64) > sequence_length:
        return None
    return no_full_sample(prefix, part, lengths, sequence_length)


def no_full_sample(prefix: str, split: Split, lengths: NDArray[Any], sequence_length: int) -> str:
    """Return the message for a split that is too small for one sample."""
    return (
        f"{prefix}: the {split.name} split has no full sample: {len(lengths)} documents with {lengths.sum()} tokens, "
        f"a sample needs {sequence_length + 1}; raise this split's share in data.split or give more data"
    )


def _record_start(record: Any) -> int:
    return int(record[0])
