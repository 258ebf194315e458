"""Verification of a baked dataset: every byte is read."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.labels import RECORD_INTS
from megatron_prealign.dataset.indexed import IndexedReader
from megatron_prealign.dataset.manifest import check_manifest, file_hash, read_manifest
from megatron_prealign.errors import DataError
from megatron_prealign.text.tokenizer import Tokenizer

_SEQUENCES_AT_ONCE = 1 << 18


def verify(prefix: str | Path, tokenizer: Tokenizer | None = None) -> list[str]:
    """Return everything that is wrong with the dataset at a prefix; empty if it is sound.

    With a `tokenizer` the dataset must have been baked with it; without one the manifest's vocabulary size is trusted.
    """
    try:
        content = read_manifest(prefix).content
    except DataError as error:
        return error.problems
    problems = check_manifest(prefix)
    problems += _hash_problems(prefix, content)
    if tokenizer is not None and tokenizer.fingerprint != content["tokenizer_fingerprint"]:
        problems.append(f"{prefix}: baked with another tokenizer than {tokenizer.path}; pass the bake's tokenizer")
    try:
        tokens = IndexedReader(prefix)
        problems += _token_problems(tokens, content)
        if ".switch.idx" in content["files"]:
            switches = IndexedReader(f"{prefix}.switch")
            problems += _switch_problems(tokens, switches, content, tokenizer)
        elif content["counts"]["switched"]:
            problems.append(f"{prefix}: the manifest counts switched words but lists no switch records")
    except DataError as error:
        problems += error.problems
    return problems


def _hash_problems(prefix: str | Path, content: dict[str, Any]) -> list[str]:
    # check_manifest has checked those of .idx files.
    paths = {Path(f"{prefix}{suffix}"): entry for suffix, entry in content["files"].items() if suffix.endswith(".bin")}
    return [
        f"{path}: its content does not match the hash in the manifest"
        for path, entry in paths.items()
        if path.is_file() and file_hash(path) != entry["sha256"]
    ]


def _token_problems(reader: IndexedReader, content: dict[str, Any]) -> list[str]:
    counts = content["counts"]
    found = {
        "tokens are of type": (reader.dtype.name, content["dtype"]),
        "documents": (len(reader.document_ends) - 1, counts["documents"]),
        "sequences": (len(reader), counts["sequences"]),
        "tokens": (len(reader.tokens), counts["tokens"]),
    }
    problems = [
        f"{reader.prefix}: {what} {actual}, but the manifest says {expected}"
        for what, (actual, expected) in found.items()
        if actual != expected
    ]
    ranges = [(int(chunk.min()), int(chunk.max())) for chunk in reader.iterate_tokens()]
    lowest, highest = min((low for low, _ in ranges), default=0), max((high for _, high in ranges), default=0)
    if lowest < 0 or highest >= content["vocab_size"]:
        problems.append(
            f"{reader.prefix}.bin: token ids from {lowest} to {highest}, but the vocabulary has {content['vocab_size']}"
        )
    if (eod := content.get("eod_id")) is not None:
        problems += _eod_problems(reader, eod)
    return problems


def _eod_problems(reader: IndexedReader, eod: int) -> list[str]:
    filled = np.flatnonzero(np.diff(reader.document_ends) > 0)
    last_sequences = reader.document_ends[1:][filled] - 1
    ends = reader.pointers[last_sequences] // reader.dtype.itemsize + reader.lengths[last_sequences]
    wrong = filled[reader.tokens[ends - 1] != eod]
    if not len(wrong):
        return []
    return [f"{reader.prefix}: {len(wrong)} documents, the first is {wrong[0]}, do not end with the token {eod}"]


def _switch_problems(
    tokens: IndexedReader, switches: IndexedReader, content: dict[str, Any], tokenizer: Tokenizer | None
) -> list[str]:
    name = switches.prefix
    if switches.dtype != np.dtype("<i4"):
        return [f"{name}: records are {switches.dtype}, not int32"]
    if len(switches) != len(tokens) or not np.array_equal(switches.document_ends, tokens.document_ends):
        return [f"{name}: its sequences do not match those of the tokens"]
    if (switches.lengths % RECORD_INTS).any():
        return [f"{name}: a sequence contains an incomplete record"]
    counts = content["counts"]
    num_records, num_tokens = len(switches.tokens) // RECORD_INTS, 0
    problems = []
    if num_records != counts["switched"]:
        problems.append(f"{name}: {num_records} records, but the manifest counts {counts['switched']} switched words")
    special = np.array(sorted(tokenizer.special_ids if tokenizer else ()), dtype=np.int32)
    for records, sequences, rooms in _record_chunks(tokens, switches):
        problems += _record_problems(name, records, sequences, rooms, content, special)
        num_tokens += int(records[:, 1].sum(dtype=np.int64))
    if num_tokens != counts["switched_tokens"]:
        problems.append(
            f"{name}: {num_tokens} tokens, but the manifest counts {counts['switched_tokens']} switched tokens"
        )
    return problems


def _record_chunks(
    tokens: IndexedReader, switches: IndexedReader
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (records [N, 4], the sequence of each [N], the tokens of that sequence [N])."""
    bounds = [*range(0, len(switches), _SEQUENCES_AT_ONCE), len(switches)]
    position = 0
    for start, stop in pairwise(bounds):
        per_sequence = switches.lengths[start:stop] // RECORD_INTS
        size = int(per_sequence.sum()) * RECORD_INTS
        records = switches.tokens[position : position + size].reshape(-1, RECORD_INTS).astype(np.int64)
        sequences = np.repeat(np.arange(start, stop), per_sequence)
        yield records, sequences, tokens.lengths[sequences].astype(np.int64)
        position += size


def _record_problems(
    name: str,
    records: NDArray[np.int64],
    sequences: NDArray[np.int64],
    rooms: NDArray[np.int64],
    content: dict[str, Any],
    special: NDArray[np.int32],
) -> list[str]:
    starts, lengths, labels, entries = records.T
    ends = starts + lengths
    overlaps = np.zeros(len(records), dtype=bool)
    overlaps[1:] = (sequences[1:] == sequences[:-1]) & (starts[1:] < ends[:-1])
    checks = {
        "extend beyond their sequence": (starts < 0) | (lengths < 1) | (ends > rooms),
        "overlap or are out of order": overlaps,
        "have a label outside the vocabulary": (labels < 0) | (labels >= content["vocab_size"]),
        "have a special token as label": np.isin(labels, special),
        "name an entry that is not in the lexicon": (entries < 0) | (entries >= content["lexicon_entries"]),
    }
    return [
        f"{name}: {int(wrong.sum())} records {what}; the first is in sequence {sequences[wrong.argmax()]}"
        for what, wrong in checks.items()
        if wrong.any()
    ]
