"""The one reader of raw text: pieces of files to batches of texts, whole files to documents with their records.

A `.jsonl`, `.json` or `.ndjson` file has a JSON object with the text under a key on each line; parquet has it in a
column; any other file is plain text with a document on each line. Blank lines are no documents. Every unusable line
is reported.

datatrove's readers are not used: they skip malformed lines and documents without text, uncounted and without line
numbers, drop empty documents, which Megatron keeps, and can't read a part of a file.
"""

import json
from codecs import BOM_UTF32_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from megatron_prealign.errors import DataError, Problems
from megatron_prealign.text.files import (
    JSON_SUFFIXES,
    PARQUET_SUFFIX,
    Piece,
    find_files,
    open_corpus,
    parquet_problem,
    reading_errors,
    text_suffix,
    whole_file,
)
from megatron_prealign.text.languages import normalize_language

BATCH_BYTES = 1 << 20
BATCH_LINES = 4096
MAX_LINE_BYTES = 16 << 20
"""Longest line: a tokenizer needs about a hundred bytes of memory per byte of a document."""
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")

Record = dict[str, Any]
"""The JSON object or row of a document; for plain text, an object with only the text."""


class _NoTextError(ValueError):
    """A well-formed record without a usable text."""


@dataclass
class TextBatch:
    """Consecutive documents, and the unusable lines between them."""

    texts: list[str] = field(default_factory=list)
    bad_lines: list[tuple[int, str]] = field(default_factory=list)
    """Line or row of the piece, from 0, and what is wrong with it."""


@dataclass(frozen=True)
class Document:
    """One document and its place."""

    path: Path
    line: int
    """Line or row, from 1."""
    text: str
    record: Record


def read_texts(piece: Piece, json_key: str, batch_bytes: int = BATCH_BYTES) -> Iterator[TextBatch]:
    """Yield the documents of a piece in order, in batches of about `batch_bytes`.

    Memory is bounded by a batch and the longest line.

    Raises:
        DataError: If the file can't be read, or a compressed one is damaged.
    """
    batch, size = TextBatch(), 0
    for number, num_bytes, record in _records(piece, json_key, [json_key]):
        size += num_bytes
        if isinstance(record, ValueError):
            batch.bad_lines.append((number, str(record)))
        else:
            batch.texts.append(record[json_key])
        if size >= batch_bytes or len(batch.texts) + len(batch.bad_lines) >= BATCH_LINES:
            yield batch
            batch, size = TextBatch(), 0
    yield batch


def locate(piece: Piece, indices: Sequence[int]) -> list[str]:
    """Return file and line or row of some lines of a piece; reads the file again up to the piece."""
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
        # A line that reaches into the piece belongs to the previous one.
        before += piece.start > 0 and not part.endswith(b"\n")
    return [f"{piece.path}:{before + index + 1}" for index in indices]


def read_documents(paths: Iterable[str | Path], json_key: str, problems: Problems) -> Iterator[Document]:
    """Yield the documents of files, folders and globs, holding one line at a time.

    Unreadable lines go to `problems` with file and line, as do files without a document.
    """
    files, wrong, _ = find_files(list(paths))
    for problem in wrong:
        problems.add(problem)
    for path in files:
        is_parquet = path.suffix.lower() == PARQUET_SUFFIX
        if is_parquet and (unfit := parquet_problem(path, json_key)):
            problems.add(unfit)
            continue
        found = False
        try:
            for index, _, record in _records(whole_file(path), json_key):
                found = True
                if isinstance(record, dict):
                    yield Document(path, index + 1, record[json_key], record)
                else:
                    place = f"{path}: row {index + 1}" if is_parquet else f"{path}:{index + 1}"
                    problems.add(f"{place}: {_explain(record, json_key)}")
        except DataError as error:
            problems.add(str(error))
            continue
        if not found:
            problems.add(f"{path}: contains no document")


def read_languages(paths: Mapping[str, Sequence[str]], json_key: str) -> dict[str, list[str]]:
    """Return the texts of each language, by its normalised tag.

    Args:
        paths: Files, folders and globs by language.
        json_key: Key of the text in JSON lines, or column of parquet files.

    Raises:
        DataError: Files that can't be read, lines without text, and languages without any.
    """
    problems = Problems()
    texts: dict[str, list[str]] = {}
    for language, names in paths.items():
        documents = [document.text for document in read_documents(names, json_key, problems)]
        if not names:
            problems.add(f"texts: no file given for {language}; give one, or leave the language out")
        elif documents and not any(text.strip() for text in documents):
            problems.add(f"{', '.join(names)}: all its documents are empty; give {language} a file with text")
        texts.setdefault(normalize_language(language), []).extend(documents)
    problems.raise_if_any()
    if not texts:
        raise DataError("texts: no language given; give a language and its file")
    return texts


def _explain(error: ValueError, json_key: str) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start} of the line; convert the file to UTF-8"
    return f"no text under the key {json_key!r}: {error}" if isinstance(error, _NoTextError) else str(error)


def _records(
    piece: Piece, json_key: str, columns: list[str] | None = None
) -> Iterator[tuple[int, int, Record | ValueError]]:
    """Yield the number of each line or row from 0, its approximate size in bytes, and its record or why it has none.

    Args:
        piece: What to read.
        json_key: Key of the text.
        columns: Columns to read of a parquet file; None for all.
    """
    is_parquet = piece.path.suffix.lower() == PARQUET_SUFFIX
    try:
        yield from _rows(piece, json_key, columns) if is_parquet else _line_records(piece, json_key)
    except reading_errors() as error:
        raise DataError(f"{piece.path}: can't be read completely ({error}); it may be damaged or truncated") from None


def _line_records(piece: Piece, json_key: str) -> Iterator[tuple[int, int, Record | ValueError]]:
    parse = _parse_json if text_suffix(piece.path) in JSON_SUFFIXES else _parse_text
    record: Record | ValueError
    for number, line in enumerate(_lines(piece)):
        if number == 0 and piece.start == 0:
            line = line.removeprefix(_BOM)
            if line.startswith(_UTF16_BOMS):
                name = "UTF-32" if line.startswith(BOM_UTF32_LE) else "UTF-16"
                raise DataError(f"{piece.path}: {name}; convert it to UTF-8 (iconv -f {name} -t UTF-8)")
            if b"\r" in line.rstrip() and not line.endswith(b"\n"):
                raise DataError(f"{piece.path}: its lines end with CR alone; convert them (tr '\\r' '\\n')")
        if len(line) > MAX_LINE_BYTES:
            record = ValueError(f"longer than {MAX_LINE_BYTES >> 20} MiB; split or remove the document")
        elif not line or line.isspace():
            continue
        else:
            try:
                record = parse(line, json_key)
            except ValueError as error:
                record = error
        yield number, len(line), record


def _lines(piece: Piece) -> Iterator[bytes]:
    """Yield the lines that begin in a piece; of a line that is too long, just enough to show it."""
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
    """Move to the next line; return the bytes passed."""
    passed = 0
    while part := stream.readline(BATCH_BYTES):
        passed += len(part)
        if part.endswith(b"\n"):
            break
    return passed


def _parse_text(line: bytes, json_key: str) -> Record:
    """Return the record of a line of text; raise a ValueError with the reason if there is none."""
    if b"\0" in line:
        raise ValueError("contains NUL bytes, like UTF-16; convert the file to UTF-8")
    return {json_key: line.decode("utf-8").rstrip("\r\n")}


def _parse_json(line: bytes, json_key: str) -> Record:
    """Return a JSON object with its text; raise a ValueError with the reason if there is none."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        # Slower, but accepts NaN and explains errors.
        record = _parse_any_json(line, json_key)
    if not isinstance(record, dict):
        raise _NoTextError(f"a JSON {type(record).__name__}, not an object with the key {json_key!r}")
    if json_key not in record:
        keys = ", ".join(map(repr, list(record)[:8])) or "none"
        raise _NoTextError(f"no key {json_key!r} (there are {keys}); name the right one with --json-key")
    return _with_text(record, json_key)


def _parse_any_json(line: bytes, json_key: str) -> Any:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start} of the line") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if isinstance(record, dict):
        # JSON can spell halves of surrogate pairs, which no tokenizer accepts; encoding them is a ValueError.
        str(record.get(json_key)).encode("utf-8")
    return record


def _with_text(record: Record, json_key: str) -> Record:
    """Return a record whose text is a string."""
    if not isinstance(record[json_key], str):
        raise _NoTextError(f"the value of {json_key!r} is a {type(record[json_key]).__name__}, not a string")
    return record


def _rows(piece: Piece, json_key: str, columns: list[str] | None) -> Iterator[tuple[int, int, Record | ValueError]]:
    from pyarrow import parquet

    record: Record | ValueError
    with parquet.ParquetFile(piece.path) as file:
        groups = range(piece.start, piece.stop)
        num_rows = sum(file.metadata.row_group(group).num_rows for group in groups)
        num_bytes = piece.size // max(num_rows, 1)
        batch_rows = min(max(1, num_rows * BATCH_BYTES // max(piece.size, 1)), BATCH_LINES)
        batches = file.iter_batches(batch_rows, list(groups), columns=columns)
        for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
            try:
                record = _with_text(row, json_key)
            except ValueError as error:
                record = error
            yield number, num_bytes, record
