"""Looking at a baked document: its text with every switched word marked."""

from collections.abc import Sequence
from pathlib import Path

from megatron_prealign.data.indexed import IndexedReader
from megatron_prealign.data.manifest import read_manifest
from megatron_prealign.data.tokenizer import Tokenizer
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon

_RECORD_INTS = 4


def inspect_document(prefix: str | Path, document: int, tokenizer: Tokenizer, lexicon: Lexicon | None = None) -> str:
    """Return the text of a document with switched words as `[original→translation]`.

    Args:
        prefix: The dataset's path without `.bin`.
        document: Its number, from 0.
        tokenizer: The one of the bake.
        lexicon: The one of the bake, which knows the original words; without it their first subword is shown.

    Raises:
        DataError: If there is no such document, or tokenizer or lexicon are others than those of the bake.
    """
    manifest = read_manifest(prefix)
    reader = IndexedReader(prefix)
    num_documents = len(reader.document_ends) - 1
    problems = []
    if not 0 <= document < num_documents:
        problems.append(f"{prefix}: no document {document}; there are {num_documents}, counted from 0")
    if tokenizer.fingerprint != manifest.content["tokenizer_fingerprint"]:
        problems.append(f"{prefix}: baked with another tokenizer than {tokenizer.path}")
    if lexicon is not None and lexicon.fingerprint != manifest.content["lexicon_fingerprint"]:
        problems.append(f"{prefix}: baked with another lexicon")
    if problems:
        raise DataError(problems)
    switches = IndexedReader(f"{prefix}.switch") if manifest.has_switches else None
    first, last = (int(end) for end in reader.document_ends[document : document + 2])
    sequences = []
    for sequence in range(first, last):
        records = switches[sequence].reshape(-1, _RECORD_INTS).tolist() if switches else []
        sequences.append(_mark(reader[sequence].tolist(), records, tokenizer, lexicon))
    return "\n".join(sequences)


def _mark(tokens: list[int], records: list[list[int]], tokenizer: Tokenizer, lexicon: Lexicon | None) -> str:
    pieces = []
    position = 0
    for start, length, label, entry in records:
        pieces.append(_text(tokens[position:start], tokenizer))
        original = lexicon.entries[entry].word if lexicon else _text([label], tokenizer).strip() + "…"
        switched = _text(tokens[start : start + length], tokenizer)
        space = " " if switched.startswith(" ") else ""
        pieces.append(f"{space}[{original}→{switched.strip()}]")
        position = start + length
    return "".join([*pieces, _text(tokens[position:], tokenizer)])


def _text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Return what tokens spell, special ones by name; `decode` would drop spaces at the start of a piece."""
    data = b"".join(
        tokenizer.token_bytes[i] or (tokenizer.decode([i]) or f"<special token {i}>").encode("utf-8") for i in ids
    )
    return data.decode("utf-8", errors="replace")
