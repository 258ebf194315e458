"""Reading a corpus: files to batches of raw lines, and lines to texts.

Splitting is cheap and happens in one place; parsing is not and happens in the workers.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from megatron_prealign.errors import DataError
from megatron_prealign.lexicon.problems import Problems

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
TEXT_SUFFIXES = (".txt",)
BATCH_BYTES = 1 << 20
BATCH_LINES = 4096
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class LineBatch:
    """Consecutive lines of one file."""

    path: Path
    first_line: int
    """Number of its first line in the file, from 1."""
    lines: list[bytes]
    consumed: int
    """Bytes read from all files so far, as they lie on disk."""


def input_problems(paths: Sequence[Path]) -> list[str]:
    """Return what is wrong with the names of input files, without reading them."""
    problems = [] if paths else ["no input; name at least one file with --input"]
    known = JSON_SUFFIXES + TEXT_SUFFIXES
    for path in paths:
        if path.is_dir():
            problems.append(f"{path}: is a folder; name the files in it")
        elif not path.is_file():
            problems.append(f"{path}: no such input file")
        elif text_suffix(path) not in known:
            problems.append(f"{path}: unknown kind of file; known are {', '.join(known)}, each also with .gz")
    return problems


def text_suffix(path: Path) -> str:
    """Return the suffix in lower case, below a `.gz` if there is one."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_batches(paths: Sequence[Path]) -> Iterator[LineBatch]:
    """Yield the lines of all files in order, about a MiB at a time; memory is bounded by that and the longest line.

    Raises:
        DataError: If a file can't be read or a compressed one is damaged.
    """
    finished = 0
    for path in paths:
        try:
            with path.open("rb") as raw:
                stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix.lower() == ".gz" else raw
                number = 1
                while lines := stream.readlines(BATCH_BYTES):
                    for start in range(0, len(lines), BATCH_LINES):
                        part = lines[start : start + BATCH_LINES]
                        yield LineBatch(path, number, part, finished + raw.tell())
                        number += len(part)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: can't be read to its end ({error})") from None
        finished += path.stat().st_size


def parse_batch(batch: LineBatch, json_key: str) -> list[str]:
    """Return the texts of a batch; lines of white space only are no documents.

    Raises:
        DataError: Every line without a usable text, as file:line (the first 20).
    """
    is_json = text_suffix(batch.path) in JSON_SUFFIXES
    texts: list[str] = []
    problems = Problems()
    for number, line in enumerate(batch.lines, start=batch.first_line):
        if number == 1:
            line = line.removeprefix(_BOM)
        if not line.strip():
            continue
        try:
            texts.append(_text_of_json(line, json_key) if is_json else line.decode("utf-8").rstrip("\r\n"))
        except ValueError as error:
            problems.add(f"{batch.path}:{number}: {error}")
    problems.raise_if_any()
    return texts


def _text_of_json(line: bytes, json_key: str) -> str:
    """Return the text of one JSON object; a ValueError says why there is none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start} of the line") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__}, not an object with the key {json_key!r}")
    if json_key not in record:
        raise ValueError(f"no key {json_key!r} (there are {', '.join(map(repr, list(record)[:8])) or 'none'}); "
                         "name the right one with --json-key")  # fmt: skip
    text = record[json_key]
    if not isinstance(text, str):
        raise ValueError(f"the value of {json_key!r} is a {type(text).__name__}, not a string")
    # JSON can spell halves of surrogate pairs, which no tokenizer takes; the error is a ValueError.
    text.encode("utf-8")
    return text
