"""Reading a piece of the input: bytes to batches of texts, with every unusable line named.

datatrove's readers do not do here: they skip lines that are not JSON and documents without text with no count and no
line number, drop empty documents, which Megatron keeps, and read a file from its beginning to its end only.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import orjson

from megatron_prealign.bake.inputs import Piece
from megatron_prealign.errors import DataError
from megatron_prealign.text.files import (
    JSON_SUFFIXES,
    PARQUET_SUFFIX,
    open_corpus,
    reading_errors,
    text_suffix,
)

BATCH_BYTES = 1 << 20
BATCH_LINES = 4096
MAX_LINE_BYTES = 16 << 20
"""Longest line: a tokenizer takes some hundred bytes of memory for each byte of a document."""
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


@dataclass
class TextBatch:
    """Documents that follow each other, and what was wrong with the lines between them."""

    texts: list[str] = field(default_factory=list)
    bad_lines: list[tuple[int, str]] = field(default_factory=list)
    """Line (or row) of the piece, from 0, and what is wrong with it."""


def read_texts(piece: Piece, json_key: str, batch_bytes: int = BATCH_BYTES) -> Iterator[TextBatch]:
    """Yield the documents of a piece in order; lines of white space only are no documents.

    Memory is bounded by a batch, of about `batch_bytes`, and the longest line.

    Raises:
        DataError: If the file can't be read, or a compressed one is damaged.
    """
    try:
        if piece.path.suffix.lower() == PARQUET_SUFFIX:
            yield from _parquet_batches(piece, json_key, batch_bytes)
        else:
            yield from _line_batches(piece, json_key, batch_bytes)
    except reading_errors() as error:
        raise DataError(f"{piece.path}: can't be read to its end ({error})") from None


def locate(piece: Piece, indices: Sequence[int]) -> list[str]:
    """Return where in its file some lines or rows of a piece are; reads what lies before the piece once more."""
    if piece.path.suffix.lower() == PARQUET_SUFFIX:
        from pyarrow import parquet

        metadata = parquet.read_metadata(piece.path)
        rows = sum(metadata.row_group(group).num_rows for group in range(piece.start))
        return [f"{piece.path}: row {rows + index + 1}" for index in indices]
    before = 0
    with piece.path.open("rb") as stream:
        while left := piece.start - stream.tell():
            part = stream.read(min(left, BATCH_BYTES))
            before += part.count(b"\n")
        # A line that reaches into the piece belongs to the one before.
        before += piece.start > 0 and not part.endswith(b"\n")
    return [f"{piece.path}:{before + index + 1}" for index in indices]


def _line_batches(piece: Piece, json_key: str, batch_bytes: int) -> Iterator[TextBatch]:
    is_json = text_suffix(piece.path) in JSON_SUFFIXES
    batch, size = TextBatch(), 0
    for number, line in enumerate(_lines(piece)):
        if number == 0 and piece.start == 0:
            line = line.removeprefix(_BOM)
            if line.startswith(_UTF16_BOMS):
                raise DataError(f"{piece.path}: UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
        size += len(line)
        try:
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"longer than {MAX_LINE_BYTES >> 20} MiB; split the document, or leave it out")
            if line and not line.isspace():
                batch.texts.append(_text_of_json(line, json_key) if is_json else _text_of_line(line))
        except ValueError as error:
            batch.bad_lines.append((number, str(error)))
        if size >= batch_bytes or len(batch.texts) + len(batch.bad_lines) >= BATCH_LINES:
            yield batch
            batch, size = TextBatch(), 0
    yield batch


def _lines(piece: Piece) -> Iterator[bytes]:
    """Yield the lines that begin in a piece; of one that is too long just more bytes than are allowed."""
    with open_corpus(piece.path) as stream:
        room: float = float("inf")
        if text_suffix(piece.path) == piece.path.suffix.lower():
            room = piece.stop - piece.start
            if piece.start:
                stream.seek(piece.start - 1)
                room -= _skip_line(stream) - 1
        while room > 0 and (line := stream.readline(MAX_LINE_BYTES + 1)):
            yield line
            room -= len(line)
            if not line.endswith(b"\n"):
                room -= _skip_line(stream)


def _skip_line(stream: IO[bytes]) -> int:
    """Go to the next line; return the bytes passed."""
    passed = 0
    while part := stream.readline(BATCH_BYTES):
        passed += len(part)
        if part.endswith(b"\n"):
            break
    return passed


def _text_of_line(line: bytes) -> str:
    """Return the text of a line; a ValueError says why there is none."""
    if b"\0" in line:
        raise ValueError("holds NUL bytes, as UTF-16 does; convert the file to UTF-8")
    return line.decode("utf-8").rstrip("\r\n")


def _text_of_json(line: bytes, json_key: str) -> str:
    """Return the text of one JSON object; a ValueError says why there is none."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        # Slower, but it takes NaN, and says what is wrong.
        record = _parse_json(line, json_key)
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__}, not an object with the key {json_key!r}")
    if json_key not in record:
        raise ValueError(f"no key {json_key!r} (there are {', '.join(map(repr, list(record)[:8])) or 'none'}); "
                         "name the right one with --json-key")  # fmt: skip
    return _usable(record[json_key], json_key)


def _parse_json(line: bytes, json_key: str) -> Any:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start} of the line") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if isinstance(record, dict):
        # JSON can spell halves of surrogate pairs, which no tokenizer takes; the error is a ValueError.
        str(record.get(json_key)).encode("utf-8")
    return record


def _usable(text: Any, json_key: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"the value of {json_key!r} is a {type(text).__name__}, not a string")
    return text


def _parquet_batches(piece: Piece, json_key: str, batch_bytes: int) -> Iterator[TextBatch]:
    from pyarrow import parquet

    with parquet.ParquetFile(piece.path) as file:
        groups = range(piece.start, piece.stop)
        rows = sum(file.metadata.row_group(group).num_rows for group in groups)
        batch_rows = min(max(1, rows * batch_bytes // max(piece.size, 1)), BATCH_LINES)
        number = 0
        for records in file.iter_batches(batch_rows, list(groups), columns=[json_key]):
            batch = TextBatch()
            for scalar in records.column(json_key):
                try:
                    batch.texts.append(_usable(scalar.as_py(), json_key))
                except ValueError as error:
                    batch.bad_lines.append((number, str(error)))
                number += 1
            yield batch
