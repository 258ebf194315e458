"""Streams the documents of JSONL and plain-text corpora."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_prealign.lexicon.problems import Problems

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

    A `.jsonl` or `.json` file has a JSON object with the text under `json_key` on each line; any other file is
    plain text with a document on each line. Blank lines are skipped. What can't be read goes to `problems` with
    file and line, and so does a file without a document.
    """
    for path in map(Path, paths):
        try:
            stream = open(path, "rb")  # noqa: SIM115 - closed by the with below; only opening it may fail here
        except OSError as error:
            problems.add(f"{path}: can't be read ({error.strerror}); give an existing .jsonl or .txt file")
            continue
        found = False
        with stream:
            for number, raw in enumerate(stream, start=1):
                if not raw.strip():
                    continue
                found = True
                document = _parse(path, number, raw, json_key)
                if isinstance(document, Document):
                    yield document
                else:
                    problems.add(f"{path}:{number}: {document}")
        if not found:
            problems.add(f"{path}: holds no document")


def _parse(path: Path, number: int, raw: bytes, json_key: str) -> Document | str:
    """Return the document of a line, or what is wrong with the line."""
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start} of the line; convert the file to UTF-8"
    if path.suffix not in (".jsonl", ".json"):
        return Document(path, number, line, {json_key: line})
    try:
        record = json.loads(line)
    except ValueError as error:
        return f"not JSON ({error})"
    text = record.get(json_key) if isinstance(record, dict) else None
    if not isinstance(text, str):
        return f"no text under the key {json_key!r}; name the right one with --json-key"
    if _SURROGATE.search(text):
        return "holds half of a surrogate pair, which is not a character; remove it"
    return Document(path, number, text, record)
