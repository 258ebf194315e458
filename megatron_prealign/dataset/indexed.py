"""Writer and reader of Megatron's indexed dataset, byte for byte, in bounded memory.

`.idx`: 9 bytes magic, version and dtype code, the counts S and D, then int32 lengths [S], int64 byte pointers [S],
int64 document ends [D]. `.bin`: the tokens back to back. A document is a run of sequences; D counts documents plus one.
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from megatron_prealign.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_OF_CODE: dict[int, np.dtype[Any]] = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in enumerate(("u1", "i1", "i2", "i4", "i8", "f8", "f4", "u2"), start=1)
}
_HEADER = struct.Struct("<9sQBQQ")
_CHUNK = 1 << 20  # entries of .idx written at a time


def optimal_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return Megatron's choice for a vocabulary: uint16 below 65,500 entries, else int32."""
    return np.dtype("<u2") if vocab_size < 65500 else np.dtype("<i4")


@dataclass(frozen=True)
class WrittenFile:
    """What the manifest says of one file."""

    size: int
    """Bytes."""
    sha256: str
    """Hex."""


class _HashedFile:
    """A file written sequentially, and hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.stream: IO[bytes] = path.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        self.stream.write(data)
        self._digest.update(data)
        self._size += len(data)

    def close(self) -> WrittenFile:
        """Make the content durable and describe it."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        return WrittenFile(self._size, self._digest.hexdigest())


class IndexedWriter:
    """Write one indexed dataset; memory does not grow with the number of documents.

    Lengths and document ends are in unnamed files next to the index until it is written. The two paths are written
    directly: the caller passes temporary ones and renames them at the end.
    """

    def __init__(self, bin_path: str | Path, idx_path: str | Path, dtype: DTypeLike, max_id: int | None = None) -> None:
        """Create the `.bin` file.

        Args:
            bin_path: Path of the tokens.
            idx_path: Path of the index, written by `close`.
            dtype: Type of a stored token; the format must have a code for it.
            max_id: Largest allowed id; None for the largest of `dtype`.
        """
        self._idx_path = Path(idx_path)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._code = next(code for code, known in DTYPE_OF_CODE.items() if known == self.dtype)
        self._max_id = int(np.iinfo(self.dtype).max) if max_id is None else max_id
        self._bin = _HashedFile(Path(bin_path))
        self._lengths: IO[bytes] = TemporaryFile(dir=self._idx_path.parent)  # noqa: SIM115 - lives as long as this
        self._document_ends: IO[bytes] = TemporaryFile(dir=self._idx_path.parent)  # noqa: SIM115
        self.num_tokens = 0
        self.num_sequences = 0
        self.num_documents = 0

    def add_documents(
        self, tokens: NDArray[Any], sequence_lengths: NDArray[Any], sequences_per_document: NDArray[Any]
    ) -> None:
        """Append documents.

        Args:
            tokens: int [T], all sequences back to back.
            sequence_lengths: int [S], tokens of each sequence; they sum to T.
            sequences_per_document: int [D], they sum to S; 0 for an empty document, as Megatron writes it.

        Raises:
            DataError: If an id is negative or too large: a cast would wrap it silently.
        """
        if int(sequence_lengths.sum()) != len(tokens) or int(sequences_per_document.sum()) != len(sequence_lengths):
            raise ValueError("lengths do not add up to the tokens and sequences given")
        if len(tokens):
            smallest, largest = int(tokens.min()), int(tokens.max())
            if smallest < 0 or largest > self._max_id:
                wrong = smallest if smallest < 0 else largest
                raise DataError(
                    f"token id {wrong} is outside 0..{self._max_id}; the tokenizer does not fit the dataset"
                )
        stored = np.ascontiguousarray(tokens, dtype=self.dtype)
        self._bin.write(stored.data.cast("B") if len(stored) else b"")
        self.num_tokens += len(stored)
        self._append_index(sequence_lengths, np.cumsum(sequences_per_document, dtype=np.int64))

    def append(self, prefix: str | Path) -> None:
        """Append all documents of the dataset at a prefix.

        Raises:
            DataError: If its files are damaged or its tokens have another type.
        """
        reader = IndexedReader(prefix)
        if reader.dtype != self.dtype:
            raise DataError(
                f"{prefix}: its tokens are {reader.dtype}, but those of the merged dataset are {self.dtype}"
            )
        for tokens in reader.iterate_tokens():
            self._bin.write(tokens.data.cast("B"))
            self.num_tokens += len(tokens)
        self._append_index(reader.lengths, reader.document_ends[1:])

    def close(self) -> tuple[WrittenFile, WrittenFile]:
        """Write the index, make both files durable and describe them: (bin, idx)."""
        index = _HashedFile(self._idx_path)
        index.write(_HEADER.pack(MAGIC, VERSION, self._code, self.num_sequences, self.num_documents + 1))
        for lengths in _chunks(self._lengths):
            index.write(lengths)
        pointer = 0
        for chunk in _chunks(self._lengths):
            ends = pointer + np.cumsum(np.frombuffer(chunk, "<i4"), dtype=np.int64) * self.dtype.itemsize
            index.write(np.concatenate(([pointer], ends[:-1])).astype("<i8", copy=False).tobytes())
            pointer = int(ends[-1])
        index.write(np.zeros(1, dtype="<i8").tobytes())
        for ends_chunk in _chunks(self._document_ends):
            index.write(ends_chunk)
        return self._bin.close(), index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; the caller removes them after an error."""
        self._bin.stream.close()
        self._lengths.close()
        self._document_ends.close()

    def _append_index(self, lengths: NDArray[Any], document_ends: NDArray[Any]) -> None:
        self._lengths.write(lengths.astype("<i4", copy=False).tobytes())
        self._document_ends.write((document_ends + self.num_sequences).astype("<i8", copy=False).tobytes())
        self.num_sequences += len(lengths)
        self.num_documents += len(document_ends)


def _chunks(spool: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a file from its beginning."""
    spool.seek(0)
    while chunk := spool.read(_CHUNK * 8):
        yield chunk


class IndexedReader:
    """Read an indexed dataset after checking that its two files match, which megatron-core does not do."""

    def __init__(self, prefix: str | Path) -> None:
        """Map the files of the dataset at a prefix.

        Raises:
            DataError: If a file is missing, or header, sizes, pointers or document ends are wrong.
        """
        self.prefix = str(prefix)
        bin_path, idx_path = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
        missing = [f"{path}: no such file" for path in (bin_path, idx_path) if not path.is_file()]
        if missing:
            raise DataError(missing)
        self._read_index(idx_path)
        size, expected = bin_path.stat().st_size, int(self.lengths.sum(dtype=np.int64)) * self.dtype.itemsize
        if size != expected:
            raise DataError(f"{bin_path}: {size} bytes, but the lengths in {idx_path.name} add up to {expected}")
        # An empty file can't be mapped.
        self.tokens: NDArray[Any] = (
            np.memmap(bin_path, dtype=self.dtype, mode="r") if size else np.empty(0, dtype=self.dtype)
        )

    def _read_index(self, path: Path) -> None:
        size = path.stat().st_size
        with path.open("rb") as stream:
            header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise DataError(
                f"{path}: {size} bytes, shorter than the header of an indexed dataset; copy or bake it again"
            )
        magic, version, code, num_sequences, num_ends = _HEADER.unpack(header)
        if magic != MAGIC or version != VERSION or code not in DTYPE_OF_CODE:
            raise DataError(
                f"{path}: not the index of a Megatron dataset (magic {magic!r}, version {version}, type {code}); "
                "check the prefix"
            )
        expected = _HEADER.size + 12 * num_sequences + 8 * num_ends
        if size != expected:
            raise DataError(f"{path}: {size} bytes, but its header requires {expected}")
        self.dtype = DTYPE_OF_CODE[code]
        body = np.memmap(path, mode="r", offset=0)
        pointers_at = _HEADER.size + 4 * num_sequences
        ends_at = pointers_at + 8 * num_sequences
        self.lengths: NDArray[np.int32] = np.frombuffer(body, "<i4", num_sequences, _HEADER.size)
        self.pointers: NDArray[np.int64] = np.frombuffer(body, "<i8", num_sequences, pointers_at)
        self.document_ends: NDArray[np.int64] = np.frombuffer(body, "<i8", num_ends, ends_at)
        if (self.lengths < 0).any():
            raise DataError(f"{path}: a sequence has a negative length")
        if num_sequences:
            ends = np.cumsum(self.lengths, dtype=np.int64) * self.dtype.itemsize
            if self.pointers[0] != 0 or not np.array_equal(self.pointers[1:], ends[:-1]):
                raise DataError(f"{path}: the pointers are not the running sum of the lengths")
        ends = self.document_ends
        if not num_ends or ends[0] != 0 or ends[-1] != num_sequences or (np.diff(ends) < 0).any():
            raise DataError(f"{path}: the document ends do not rise from 0 to the {num_sequences} sequences")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, sequence: int) -> NDArray[Any]:
        start = int(self.pointers[sequence]) // self.dtype.itemsize
        return self.tokens[start : start + int(self.lengths[sequence])]

    def iterate_tokens(self, chunk: int = 1 << 24) -> Iterator[NDArray[Any]]:
        """Yield all tokens in order, `chunk` at a time."""
        for start in range(0, len(self.tokens), chunk):
            yield self.tokens[start : start + chunk]
