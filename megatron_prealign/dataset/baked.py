"""The baked datasets of a mix: their training splits, identified by content."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from megatron.core.datasets.blended_megatron_dataset_config import (
    convert_split_vector_to_split_matrix,
    parse_and_normalize_split,
)
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split

from megatron_prealign.config.data import DataConfig, find_prefixes
from megatron_prealign.dataset.manifest import check_manifest, read_manifest
from megatron_prealign.dataset.samples import no_full_sample
from megatron_prealign.errors import DataError
from megatron_prealign.ranks import is_first_of_host
from megatron_prealign.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class BakedDataset:
    """The training split of one baked dataset."""

    key: str
    """The beginning of the hash of its content, by which checkpoints identify it at any path."""
    prefix: str
    """Its path without `.bin`."""
    language: str
    """Language of its entry."""
    num_tokens: int
    """Tokens of one epoch."""


def check_blend(data: DataConfig, tokenizer: Tokenizer) -> list[str]:
    """Return every problem of training and validating on the datasets with this tokenizer.

    Reads manifests, and on the first rank of a host hashes .idx files; needs no process group.
    """
    problems: list[str] = [] if data.blend else ["data.blend: no dataset given; give at least one baked prefix"]
    if data.reset_attention_mask and tokenizer.eod_id is None:
        return [
            *problems,
            f"data.reset_attention_mask: {data.tokenizer_path} has no end-of-document token; set it to false",
        ]
    named: dict[str, str] = {}
    for field, entries in (("data.blend", data.blend), ("data.valid_blend", data.valid_blend)):
        for prefix in (prefix for entry in entries for prefix in find_prefixes(entry.prefix)):
            found = _check_dataset(prefix, data, tokenizer)
            if not found:
                key = read_manifest(prefix).content_hash
                if key in named:
                    found = [f"{field}: {prefix} is named twice, or has the same content as {named[key]}; name it once"]
                named[key] = prefix
            problems.extend(found)
    return problems


def read_datasets(data: DataConfig) -> list[list[BakedDataset]]:
    """Return the datasets of each entry of the blend, whose manifests were checked."""
    return [
        [_read_dataset(prefix, entry.language, data.split) for prefix in find_prefixes(entry.prefix)]
        for entry in data.blend
    ]


def open_indexed(prefix: str) -> IndexedDataset:
    """Open the token sequences of a dataset; a damaged index is a DataError."""
    try:
        return IndexedDataset(prefix)
    except Exception as error:
        # megatron-core only asserts its assumptions, and numpy maps what the index claims.
        raise DataError(f"{prefix}.idx: not a dataset index ({str(error) or 'inconsistent'}); bake it again") from None


def _read_dataset(prefix: str, language: str, split: str) -> BakedDataset:
    # Keep the reader while its lengths are read: megatron-core unmaps the file with it, in spite of views.
    indexed = open_indexed(prefix)
    start, stop = split_range(len(indexed), split, Split.train)
    num_tokens = int(np.sum(indexed.sequence_lengths[start:stop], dtype=np.int64))
    return BakedDataset(read_manifest(prefix).content_hash[:16], prefix, language, num_tokens)


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


def _check_dataset(prefix: str, data: DataConfig, tokenizer: Tokenizer) -> Sequence[str]:
    # Once per host: thousands of ranks would read the same files.
    problems = check_manifest(prefix, with_hashes=is_first_of_host())
    if problems:
        return problems
    content = read_manifest(prefix).content
    if content["vocab_size"] != tokenizer.vocab_size:
        problems.append(
            f"{prefix}: baked with a vocabulary of {content['vocab_size']} tokens, but the tokenizer of this run has "
            f"{tokenizer.vocab_size}; set data.tokenizer_path to the bake's tokenizer or bake again"
        )
    elif content["tokenizer_fingerprint"] != tokenizer.fingerprint:
        problems.append(
            f"{prefix}: baked with another tokenizer (fingerprint {content['tokenizer_fingerprint'][:12]}, this run's "
            f"is {tokenizer.fingerprint[:12]}); set data.tokenizer_path to the bake's tokenizer or bake again"
        )
    if data.reset_attention_mask and content.get("eod_id") != tokenizer.eod_id:
        problems.append(
            f"{prefix}: baked without --append-eod, so data.reset_attention_mask finds no end of a document; bake "
            "it with --append-eod, or set reset_attention_mask to false"
        )
    return problems
