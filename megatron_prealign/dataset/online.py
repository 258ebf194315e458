"""Code-switching while training: new switches every epoch from a dataset that was baked without any.

A document's switches are those of a bake with the same seed, ratio and lexicon, with the number of the epoch in the
address of every draw; epoch 0 equals the bake. Documents change their lengths from epoch to epoch, so the sample index
knows the lengths of each: the order is a function of (seed, epoch), as without switches.

Building the index switches every document once per epoch, on rank 0, at the speed of the bake's code-switch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split
from numpy.typing import NDArray

from megatron_prealign.codeswitch.codeswitch import Switched, codeswitch
from megatron_prealign.codeswitch.switch_table import SwitchTable
from megatron_prealign.dataset.manifest import read_manifest
from megatron_prealign.dataset.samples import CodeSwitchDataset, CodeSwitchDatasetConfig, no_full_sample, order_samples
from megatron_prealign.errors import DataError

_TOKENS_AT_ONCE = 1 << 18
_DOCUMENTS_KEPT = 64


@dataclass(frozen=True)
class OnlineSwitch:
    """What is switched, and its ratio in each epoch."""

    table: SwitchTable
    """The lexicon, compiled for the dataset's tokenizer."""
    fingerprint: str
    """Of the lexicon and its compilation."""
    ratios: tuple[float, ...]
    """Probability that a covered word is switched in epoch 0, 1, ...; the last one applies to all later epochs."""
    seed: int
    """Seed of the draws."""
    prefixes: frozenset[str]
    """The datasets that are switched; others are read as baked."""

    def __call__(self, tokens: NDArray[Any], offsets: NDArray[np.int64], epoch: int) -> Switched:
        """Switch words of documents, int [T] at offsets int64 [D + 1]."""
        ratio = self.ratios[min(epoch, len(self.ratios) - 1)]
        return codeswitch(tokens, offsets, self.table, ratio, self.seed, epoch)


@dataclass
class OnlineDatasetConfig(CodeSwitchDatasetConfig):
    """Configuration of a dataset that switches while it is read."""

    online: OnlineSwitch | None = None
    """What to switch."""


class OnlineCodeSwitchDataset(CodeSwitchDataset):
    """CodeSwitchDataset that makes its switches itself.

    Sequence e * S + i of `document_index` is sequence i of the S on disk in epoch e.
    """

    config: OnlineDatasetConfig
    index_names = ("document", "sample", "shuffle", "length")

    def __init__(
        self,
        indexed_dataset: IndexedDataset,
        dataset_path: str,
        indexed_indices: NDArray[Any],
        num_samples: int | None,
        index_split: Split,
        config: OnlineDatasetConfig,
    ) -> None:
        """Open the dataset; arguments as for the base class.

        Raises:
            DataError: if the dataset was baked with switches, or the split has no full sample.
        """
        assert config.online is not None
        self._online = config.online if dataset_path in config.online.prefixes else None
        self._epoch_lengths: NDArray[np.int32] = indexed_dataset.sequence_lengths
        self._switched = lru_cache(_DOCUMENTS_KEPT)(self._switch_one)
        super().__init__(indexed_dataset, dataset_path, indexed_indices, num_samples, index_split, config)
        if self._online and (problems := baked_switches(dataset_path)):
            raise DataError(problems)

    def _read(self, sequence: int, start: int, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
        if self._online is None:
            return super()._read(sequence, start, length)
        switched = self._switched(sequence)
        return switched.tokens[start : start + length].astype(np.int64), switched.records

    @property
    def _lengths(self) -> NDArray[np.int32]:
        return self._epoch_lengths

    def _order_identifiers(self) -> dict[str, Any]:
        if self._online is None:
            return super()._order_identifiers()
        # The number of epochs is not known before their documents are switched.
        online = self._online
        switch = {"fingerprint": online.fingerprint, "ratios": list(online.ratios), "seed": online.seed}
        return {"num_samples": self.num_samples, "online": switch}

    def _build_arrays(self) -> tuple[NDArray[Any], ...]:
        if self._online is None:
            return (*super()._build_arrays(), self.dataset.sequence_lengths)
        length, needed = self.config.sequence_length, self.num_samples
        num_sequences = len(self.dataset)
        lengths: list[NDArray[np.int32]] = []
        documents: list[NDArray[np.int32]] = []
        total = 0
        ends: list[int] = []
        while not ends or (needed is not None and (total - 1) // length < needed):
            epoch = len(ends)
            lengths.append(self._lengths_in(epoch))
            num_tokens = int(lengths[-1][self.indices].sum(dtype=np.int64))
            if num_tokens <= length:
                raise DataError(no_full_sample(self.dataset_path, self.index_split, lengths[-1][self.indices], length))
            if (epoch + 1) * num_sequences >= 2**31:
                raise DataError(
                    f"{self.dataset_path}: {epoch + 1} epochs exceed 2**31 sequences; train for fewer epochs"
                )
            documents.append((self.indices + epoch * num_sequences).astype(np.int32))
            total += num_tokens
            ends.append(total)
        all_lengths = np.concatenate(lengths)
        indices = order_samples(all_lengths, documents, np.array(ends), length, self.config.random_seed)
        return (*indices, all_lengths)

    def _take_arrays(self, arrays: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        *indices, self._epoch_lengths = arrays
        return super()._take_arrays(tuple(indices))

    def _lengths_in(self, epoch: int) -> NDArray[np.int32]:
        """Return the length of each sequence of this split in an epoch; of the others as stored."""
        lengths: NDArray[np.int32] = self.dataset.sequence_lengths.copy()
        for chosen in _groups(self.indices, lengths):
            tokens = [self.dataset[int(sequence)] for sequence in chosen]
            lengths[chosen] = np.diff(self._switch(tokens, epoch).offsets)
        return lengths

    def _switch_one(self, sequence: int) -> Switched:
        epoch, position = divmod(sequence, len(self.dataset))
        return self._switch([self.dataset[position]], epoch)

    def _switch(self, sequences: Sequence[NDArray[Any]], epoch: int) -> Switched:
        assert self._online is not None
        offsets = np.concatenate(([0], np.cumsum([len(tokens) for tokens in sequences])))
        tokens = np.concatenate(sequences).astype(np.int32)
        self._check_ids(tokens)
        return self._online(tokens, offsets, epoch)


def baked_switches(prefix: str) -> list[str]:
    """Return the problem that a dataset was baked with switches, if it was."""
    if not read_manifest(prefix).has_switches:
        return []
    return [
        f"{prefix}: baked with switches, but data.codeswitch online needs a bake without switches: omit --lexicon, or "
        "pass --codeswitch-ratio 0"
    ]


def _groups(indices: NDArray[Any], lengths: NDArray[np.int32]) -> list[NDArray[Any]]:
    """Cut sequences into runs of about the tokens that are switched at once."""
    ends = np.cumsum(lengths[indices], dtype=np.int64)
    cuts = np.flatnonzero(np.diff(ends // _TOKENS_AT_ONCE)) + 1
    return [group for group in np.split(indices, cuts) if len(group)]
