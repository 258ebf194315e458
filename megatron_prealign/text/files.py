"""Files of raw text: names to files, files to the pieces that tasks read, and decompression.

A piece is what one task of a bake reads: a range of bytes of a plain file, some row groups of a parquet file, or a
whole compressed file, which can't be read from the middle. Pieces depend on the files alone, so finished ones remain
valid with another number of workers.
"""

import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import IO, cast

from megatron_prealign.errors import DataError
from megatron_prealign.files import match_pattern, remote_problem

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
TEXT_SUFFIXES = (".txt",)
PARQUET_SUFFIX = ".parquet"
COMPRESSION_SUFFIXES = (".gz", ".zst")
KNOWN_KINDS = f"{', '.join(JSON_SUFFIXES + TEXT_SUFFIXES)}, each also with .gz or .zst, and {PARQUET_SUFFIX}"
_BUFFER_BYTES = 1 << 20
# Small enough that a few files keep many workers busy, large enough that a terabyte is a few thousand pieces.
_MIN_PIECE_BYTES = 8 << 20
_NUM_PIECES_OF_LARGE_INPUT = 4096


@dataclass(frozen=True)
class Piece:
    """A part of one file."""

    path: Path
    start: int
    """First byte, or first row group."""
    stop: int
    """Byte or row group after the last; a line belongs to the piece with its first byte."""
    size: int
    """Bytes on disk."""


def find_files(names: Sequence[str | Path]) -> tuple[list[Path], list[str], list[str]]:
    """Return the files that names refer to, what is wrong with the names, and what was skipped.

    Folders are searched recursively; the files of a folder or glob are in natural order (2 before 10).
    """
    paths: list[Path] = []
    problems: list[str] = []
    notes: list[str] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = _visible_files(path, problems, notes)
            known = [file for file in found if is_known(file)]
            broken = {file for file in known if not file.exists()}
            problems += [f"{file}: a link to nothing; mend or remove it" for file in sorted(broken)]
            paths += [file for file in known if file not in broken]
            if not known:
                problems.append(f"{path}: the folder contains no file of a known kind; known are {KNOWN_KINDS}")
            elif skipped := [str(file.relative_to(path)) for file in found if not is_known(file)]:
                notes.append(f"{path}: {len(skipped)} files of other kinds skipped ({', '.join(skipped[:5])})")
        elif path.exists():
            paths.append(path)
        elif problem := remote_problem(name):
            problems.append(problem)
        elif has_magic(str(name)):
            matches = sorted(map(Path, match_pattern(str(name))), key=_natural)
            files = [match for match in matches if match.is_file()]
            paths += files
            if not files:
                problems.append(f"{name}: no file matches")
            elif len(files) < len(matches):
                notes.append(f"{name}: {len(matches) - len(files)} of its matches are no files, so they are skipped")
        else:
            problems.append(f"{path}: no such input file")
    return paths, problems, notes


def expand_inputs(names: Sequence[str | Path], json_key: str) -> tuple[list[Path], list[str], list[str]]:
    """Do what `find_files` does, and check every file.

    Args:
        names: Files, folders and globs, in the order they are to be baked.
        json_key: The column that parquet files must have.
    """
    paths, problems, notes = find_files(names)
    if not names:
        problems.append("no input; name at least one file, folder or glob with --input")
    problems += [problem for path in dict.fromkeys(paths) if (problem := _file_problem(path, json_key))]
    return paths, problems, notes


def cut_into_pieces(paths: Sequence[Path]) -> list[Piece]:
    """Return the pieces of all files in order.

    Raises:
        DataError: If a parquet file can't be read.
    """
    sizes = [path.stat().st_size for path in paths]
    piece_bytes = max(_MIN_PIECE_BYTES, sum(sizes) // _NUM_PIECES_OF_LARGE_INPUT)
    pieces: list[Piece] = []
    for path, size in zip(paths, sizes, strict=True):
        if path.suffix.lower() == PARQUET_SUFFIX:
            pieces += _parquet_pieces(path, piece_bytes)
        elif path.suffix.lower() in COMPRESSION_SUFFIXES:
            pieces.append(Piece(path, 0, size, size))
        else:
            starts = range(0, size, piece_bytes)
            pieces += [
                Piece(path, start, min(start + piece_bytes, size), min(piece_bytes, size - start)) for start in starts
            ]
    return pieces


def whole_file(path: Path) -> Piece:
    """Return a file, or a pipe, as one piece."""
    if path.suffix.lower() != PARQUET_SUFFIX:
        return Piece(path, 0, sys.maxsize, path.stat().st_size)
    (piece,) = _parquet_pieces(path, sys.maxsize) or [Piece(path, 0, 0, 0)]
    return piece


def open_corpus(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed if its name ends in .gz, .dz or .zst.

    Raises:
        OSError: If it can't be opened; reading raises `reading_errors` if it is damaged.
    """
    suffix = path.suffix.lower()
    if suffix in (".gz", ".dz"):
        return cast(IO[bytes], io.BufferedReader(gzip.open(path), _BUFFER_BYTES))
    if suffix == ".zst":
        from backports import zstd  # deferred: most corpora do not need it

        # Unlike zstandard's readers, this one reads all frames and reports a truncated file. By default it refuses
        # those of `zstd --long=28` and more, which take 256 MiB to 2 GiB of memory.
        window = zstd.DecompressionParameter.window_log_max
        stream = zstd.open(path, options={window: window.bounds()[1]})
        return cast(IO[bytes], io.BufferedReader(stream, _BUFFER_BYTES))
    return path.open("rb", buffering=_BUFFER_BYTES)


def reading_errors() -> tuple[type[Exception], ...]:
    """Return what the loaded libraries raise for damaged files; pyarrow also names and strings that are not UTF-8."""
    named = (("backports.zstd", "ZstdError"), ("pyarrow.lib", "ArrowException"))
    loaded = (getattr(sys.modules[module], name) for module, name in named if module in sys.modules)
    return OSError, EOFError, UnicodeDecodeError, zlib.error, *loaded


def text_suffix(path: Path) -> str:
    """Return the suffix in lower case, without that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSION_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_known(path: Path) -> bool:
    """Return whether a file's name is of a kind that can be read."""
    return text_suffix(path) in JSON_SUFFIXES + TEXT_SUFFIXES or path.suffix.lower() == PARQUET_SUFFIX


def _visible_files(folder: Path, problems: list[str], notes: list[str]) -> list[Path]:
    """Return the files below a folder and below folders that links lead to, each folder once; none that are hidden."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    roots = [folder]
    for root in roots:  # grows by links, so real folders come before them
        for name, folders, files in os.walk(root, onerror=lambda error: problems.append(str(error))):
            parent = Path(name)
            status = parent.stat()
            if (status.st_dev, status.st_ino) in seen:
                notes.append(f"{parent}: is read already under another name, so it is skipped")
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            found += [parent / file for file in files if not file.startswith(".")]
            folders[:] = [below for below in folders if not below.startswith(".")]
            roots += [parent / below for below in sorted(folders) if (parent / below).is_symlink()]
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key by which shard-2 comes before shard-10; the text itself breaks ties such as 1 and 01."""
    parts = re.split(r"([0-9]+)", str(path))
    return [*((int(part), "") if part.isdecimal() else (-1, part) for part in parts), (-1, str(path))]


def _file_problem(path: Path, json_key: str) -> str | None:
    if not path.is_file():
        return f"{path}: not a file"
    if not is_known(path):
        return f"{path}: unknown kind of file; known are {KNOWN_KINDS}"
    if path.suffix.lower() == PARQUET_SUFFIX:
        return parquet_problem(path, json_key)
    return None


def parquet_problem(path: Path, json_key: str) -> str | None:
    """Return why a parquet file has no texts in a column, or None."""
    try:
        from pyarrow import parquet, types
    except ImportError:
        return f"{path}: parquet files need pyarrow; install megatron-prealign[data]"
    try:
        schema = parquet.read_schema(path)
    except UnicodeEncodeError:
        return f"{path}: pyarrow can't open a file whose name is not UTF-8; rename it"
    except reading_errors() as error:
        return f"{path}: not a parquet file ({error})"
    if json_key not in schema.names:
        columns = ", ".join(map(repr, schema.names[:8])) or "none"
        return f"{path}: no column {json_key!r} (there are {columns}); name the right one with --json-key"
    if schema.names.count(json_key) > 1:
        return f"{path}: {schema.names.count(json_key)} columns are named {json_key!r}; rename or remove all but one"
    kind = schema.field(json_key).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)):
        return f"{path}: column {json_key!r} contains {kind}, not strings"
    return None


def _parquet_pieces(path: Path, piece_bytes: int) -> list[Piece]:
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(path)
    except reading_errors() as error:
        raise DataError(f"{path}: not a parquet file ({error})") from None
    pieces: list[Piece] = []
    start = size = 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        if size >= piece_bytes or group == metadata.num_row_groups - 1:
            pieces.append(Piece(path, start, group + 1, size))
            start, size = group + 1, 0
    return pieces
