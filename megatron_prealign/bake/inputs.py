"""Input of the bake: files, folders and globs, and the pieces they are cut into.

A piece is what one task reads and bakes: a range of bytes of a plain file, some row groups of a parquet file, or a
whole compressed file, which can't be entered in the middle. Pieces are a function of the files alone, so finished ones
stay finished whatever the number of workers of the next run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_prealign.errors import DataError
from megatron_prealign.text.files import (
    COMPRESSION_SUFFIXES,
    KNOWN_KINDS,
    PARQUET_SUFFIX,
    find_files,
    is_known,
)

# Small enough that a few files keep many workers busy, large enough that a terabyte is some thousand pieces.
_MIN_PIECE_BYTES = 8 << 20
_NUM_PIECES_OF_LARGE_INPUT = 4096


@dataclass(frozen=True)
class Piece:
    """A part of one file."""

    path: Path
    start: int
    """First byte, or first row group."""
    stop: int
    """Byte or row group behind the last; lines belong to the piece that their first byte is in."""
    size: int
    """Bytes on disk."""


def expand_inputs(names: Sequence[str | Path], json_key: str) -> tuple[list[Path], list[str], list[str]]:
    """Return the files that names stand for, what is wrong with them, and what was passed over.

    Folders are searched with their subfolders; files of a folder or of a glob are in natural order (2 before 10).

    Args:
        names: Files, folders and globs, in the order they are to be baked in.
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


def _file_problem(path: Path, json_key: str) -> str | None:
    if not path.is_file():
        return f"{path}: not a file"
    if not is_known(path):
        return f"{path}: unknown kind of file; known are {KNOWN_KINDS}"
    if path.suffix.lower() == PARQUET_SUFFIX:
        return _parquet_problem(path, json_key)
    return None


def _parquet_problem(path: Path, json_key: str) -> str | None:
    try:
        from pyarrow import lib, parquet, types
    except ImportError:
        return f"{path}: parquet files need pyarrow; install megatron-prealign[data]"
    try:
        schema = parquet.read_schema(path)
    except (OSError, lib.ArrowException) as error:
        return f"{path}: not a parquet file ({error})"
    if json_key not in schema.names:
        columns = ", ".join(map(repr, schema.names[:8])) or "none"
        return f"{path}: no column {json_key!r} (there are {columns}); name the right one with --json-key"
    kind = schema.field(json_key).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)):
        return f"{path}: column {json_key!r} holds {kind}, not strings"
    return None


def _parquet_pieces(path: Path, piece_bytes: int) -> list[Piece]:
    from pyarrow import lib, parquet

    try:
        metadata = parquet.read_metadata(path)
    except (OSError, lib.ArrowException) as error:
        raise DataError(f"{path}: not a parquet file ({error})") from None
    pieces: list[Piece] = []
    start = size = 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        if size >= piece_bytes or group == metadata.num_row_groups - 1:
            pieces.append(Piece(path, start, group + 1, size))
            start, size = group + 1, 0
    return pieces
