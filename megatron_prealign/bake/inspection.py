"""Inspection of a baked dataset: its counts, and its documents with switched words marked or input next to labels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from megatron_prealign.codeswitch.labels import IGNORE, RECORD_INTS, apply_switch_records
from megatron_prealign.dataset.indexed import IndexedReader
from megatron_prealign.dataset.manifest import Manifest, read_manifest
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon
from megatron_prealign.text.tokenizer import Tokenizer

_NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Piece:
    """A part of a document: unchanged text, or a switched word."""

    text: str
    """The text of the input."""
    original: str | None = None
    """The word that was replaced; None for unchanged text."""


@dataclass(frozen=True)
class Row:
    """One position: its input and the label that it must predict."""

    input: str
    """The token at this position."""
    label: str | None
    """The token that this position must predict; None if it predicts nothing."""
    is_switched: bool
    """Whether the label differs from the next input token."""


class DatasetInspector:
    """Reads the documents of one baked dataset."""

    def __init__(self, prefix: str | Path, tokenizer: Tokenizer, lexicon: Lexicon | None = None) -> None:
        """Open a dataset.

        Args:
            prefix: The dataset's path without `.bin`.
            tokenizer: The tokenizer of the bake.
            lexicon: The lexicon of the bake, for the original words; without it their first subword is shown.

        Raises:
            DataError: If it can't be read, or was baked with another tokenizer or lexicon.
        """
        manifest = read_manifest(prefix)
        problems = []
        if tokenizer.fingerprint != manifest.content["tokenizer_fingerprint"]:
            problems.append(f"{prefix}: baked with another tokenizer than {tokenizer.path}; pass the bake's tokenizer")
        if lexicon is not None and lexicon.fingerprint != manifest.content["lexicon_fingerprint"]:
            problems.append(f"{prefix}: baked with another lexicon or --source-language; pass the bake's")
        if problems:
            raise DataError(problems)
        self.prefix = str(prefix)
        self._tokenizer, self._lexicon = tokenizer, lexicon
        self._tokens = IndexedReader(prefix)
        self._switches = IndexedReader(f"{prefix}.switch") if manifest.has_switches else None

    @property
    def num_documents(self) -> int:
        """Documents of the dataset."""
        return len(self._tokens.document_ends) - 1

    def pieces(self, document: int) -> list[list[Piece]]:
        """Return the pieces of each sequence of a document.

        Raises:
            DataError: If there is no such document, or it is damaged.
        """
        with self._sound_data():
            return [self._pieces(sequence) for sequence in self._sequences(document)]

    def rows(self, document: int) -> list[list[Row]]:
        """Return each position of each sequence of a document, with the labels of input-only code-switching.

        Raises:
            DataError: If there is no such document, or it is damaged.
        """
        with self._sound_data():
            return [self._rows(sequence) for sequence in self._sequences(document)]

    @contextmanager
    def _sound_data(self) -> Iterator[None]:
        """Turn the exceptions of damaged ids and records into an error: inspecting does not verify everything first."""
        try:
            yield
        except (IndexError, ValueError) as error:
            raise DataError(f"{self.prefix}: damaged ({error}); tools/verify_dataset.py shows where") from None

    def _sequences(self, document: int) -> range:
        if not 0 <= document < self.num_documents:
            raise DataError(f"{self.prefix}: no document {document}; it has {self.num_documents}, counted from 0")
        first, last = (int(end) for end in self._tokens.document_ends[document : document + 2])
        return range(first, last)

    def _records(self, sequence: int) -> list[list[int]]:
        records: list[list[int]] = (
            self._switches[sequence].reshape(-1, RECORD_INTS).tolist() if self._switches is not None else []
        )
        return records

    def _pieces(self, sequence: int) -> list[Piece]:
        tokens = self._tokens[sequence].tolist()
        pieces = []
        position = 0
        for start, length, label, entry in self._records(sequence):
            pieces.append(Piece(spell(self._tokenizer, tokens[position:start])))
            original = (
                self._lexicon.entries[entry].word if self._lexicon else spell(self._tokenizer, [label]).strip() + "…"
            )
            switched = spell(self._tokenizer, tokens[start : start + length])
            if switched.startswith(" "):
                pieces.append(Piece(" "))
            pieces.append(Piece(switched.strip(), original))
            position = start + length
        pieces.append(Piece(spell(self._tokenizer, tokens[position:])))
        return [piece for piece in pieces if piece.text]

    def _rows(self, sequence: int) -> list[Row]:
        tokens = self._tokens[sequence].astype(np.int64)
        records = np.array(self._records(sequence), dtype=np.int64).reshape(-1, RECORD_INTS)
        labels = apply_switch_records(tokens, records, "input-only").tolist()
        following = [*tokens.tolist()[1:], None]
        return [
            Row(
                input=spell(self._tokenizer, [token]),
                label=None if label in (None, IGNORE) else spell(self._tokenizer, [label]),
                is_switched=label != after,
            )
            for token, label, after in zip(tokens.tolist(), [*labels[1:], None], following, strict=True)
        ]


def spell(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return the text of tokens, special ones by name; `decode` would drop spaces at the start of a piece."""
    data = b"".join(
        tokenizer.token_bytes[i] or (tokenizer.decode([i]) or f"<special token {i}>").encode("utf-8") for i in ids
    )
    return data.decode("utf-8", errors="replace")


def inspect_document(prefix: str | Path, document: int, tokenizer: Tokenizer, lexicon: Lexicon | None = None) -> str:
    """Return the text of a document, numbered from 0, with switched words as `[original→translation]`.

    Arguments and errors are those of `DatasetInspector`.
    """
    sequences = DatasetInspector(prefix, tokenizer, lexicon).pieces(document)
    return "\n".join(
        "".join(piece.text if piece.original is None else f"[{piece.original}→{piece.text}]" for piece in sequence)
        for sequence in sequences
    )


def statistics_table(prefix: str | Path, manifest: Manifest) -> Table:
    """Return the counts of the dataset at a prefix as a table."""
    counts, provenance = manifest.content["counts"], manifest.provenance
    table = Table(title=str(prefix), show_header=False, title_justify="left")
    table.add_row("documents", f"{counts['documents']:,}")
    if counts.get("skipped"):
        table.add_row("lines left out", f"{counts['skipped']:,}")
        for example in provenance.get("skipped_examples", [])[:_NUM_EXAMPLES]:
            table.add_row("", example)
    table.add_row("tokens", f"{counts['tokens']:,}")
    if "seconds" in provenance:
        table.add_row("tokens per second", f"{counts['tokens'] / max(provenance['seconds'], 1e-3):,.0f}")
    table.add_row("words", f"{counts['words']:,}")
    if manifest.content["lexicon_fingerprint"]:
        table.add_row("codeswitch ratio", f"{manifest.content['codeswitch_ratio']}")
        table.add_row("words covered by the lexicon", _share(counts["covered"], counts["words"]))
        table.add_row("words switched", _share(counts["switched"], counts["words"]))
        table.add_row("tokens switched", _share(counts["switched_tokens"], counts["tokens"]))
        for language, count in counts["by_language"].items():
            table.add_row(f"  words into {language}", _share(count, counts["switched"]))
    return table


def _share(count: int, whole: int) -> str:
    return f"{count:,}  ({count / max(whole, 1):.2%})"
