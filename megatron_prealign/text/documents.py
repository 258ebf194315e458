"""Streams the documents of JSONL and plain-text corpora."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_prealign.errors import Problems
from megatron_prealign.text.files import (
    JSON_SUFFIXES,
    PARQUET_SUFFIX,
    find_files,
    open_corpus,
    reading_errors,
    text_suffix,
)

# JSON can spell halves of surrogate pairs, which no tokenizer takes.
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """One document and where it stands."""

    path: Path
    line: int
    text: str
    record: dict[str, Any]
    """The JSON object it came from; of a plain-text file, an object with the text alone."""


def read_documents(paths: Iterable[str | Path], json_key: str, problems: Problems) -> Iterator[Document]:
    """Yield documents one after the other, holding one line at a time.

    A `.jsonl`, `.json` or `.ndjson` file has a JSON object with the text under `json_key` on each line; any other file
    is plain text with a document on each line; both may be packed as `.gz` or `.zst`. Folders and globs stand for the
    files in them. Blank lines are skipped. What can't be read goes to `problems` with file and line, and so does a file
    without a document.
    """
    files, wrong, _ = find_files(list(paths))
    for problem in wrong:
        problems.add(problem)
    for path in files:
        if path.suffix.lower() == PARQUET_SUFFIX:
            problems.add(f"{path}: parquet is read by the bake alone; give .jsonl or .txt, which may be packed")
            continue
        found = False
        try:
            with open_corpus(path) as stream:
                for number, raw in enumerate(stream, start=1):
                    if not raw.strip():
                        continue
                    found = True
                    document = _parse(path, number, raw, json_key)
                    if isinstance(document, Document):
                        yield document
                    else:
                        problems.add(f"{path}:{number}: {document}")
        except reading_errors() as error:
            problems.add(f"{path}: can't be read to its end ({error})")
            continue
        if not found:
            problems.add(f"{path}: holds no document")


def _parse(path: Path, number: int, raw: bytes, json_key: str) -> Document | str:
    """Return the document of a line, or what is wrong with the line."""
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start} of the line; convert the file to UTF-8"
    if text_suffix(path) not in JSON_SUFFIXES:
        return Document(path, number, line, {json_key: line})
    try:
        record = json.loads(line)
    except ValueError as error:
        return f"not JSON ({error})"
    except RecursionError:
        return "JSON nested too deeply"
    text = record.get(json_key) if isinstance(record, dict) else None
    if not isinstance(text, str):
        return f"no text under the key {json_key!r}; name the right one with --json-key"
    if _SURROGATE.search(text):
        return "holds half of a surrogate pair, which is not a character; remove it"
    return Document(path, number, text, record)
