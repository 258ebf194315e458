"""Our writer against megatron-core's, byte for byte, and our reader against damaged files."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

from megatron_prealign.dataset import indexed
from megatron_prealign.dataset.indexed import IndexedReader, IndexedWriter, optimal_dtype
from megatron_prealign.dataset.manifest import file_hash
from megatron_prealign.errors import DataError

Documents = list[list[list[int]]]  # documents of sequences of tokens
SMALL: Documents = [[[1, 2, 3]], [], [[4], [5, 6]], [[65499]]]


def write_with_megatron(prefix: Path, documents: Documents, dtype: type[np.number]) -> None:
    """Write with megatron-core's builder, as its preprocessing does."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        flat = [token for sequence in document for token in sequence]
        builder.add_document(torch.tensor(flat, dtype=torch.int64), [len(sequence) for sequence in document])
    builder.finalize(f"{prefix}.idx")


def write_with_ours(prefix: Path, documents: Documents, dtype: type[np.number], batch: int = 3) -> None:
    """Write with our writer, `batch` documents at a time."""
    with IndexedWriter(f"{prefix}.bin", f"{prefix}.idx", dtype) as writer:
        for start in range(0, len(documents), batch):
            part = documents[start : start + batch]
            sequences = [sequence for document in part for sequence in document]
            writer.add_documents(
                np.array([token for sequence in sequences for token in sequence], dtype=np.int64),
                np.array([len(sequence) for sequence in sequences], dtype=np.int64),
                np.array([len(document) for document in part], dtype=np.int64),
            )
        described = writer.close()
    for suffix, written in zip((".bin", ".idx"), described, strict=True):
        path = Path(f"{prefix}{suffix}")
        assert (written.size, written.sha256) == (path.stat().st_size, file_hash(path))


def same_bytes(left: Path, right: Path) -> bool:
    """Compare both files of two datasets."""
    return all(
        Path(f"{left}{suffix}").read_bytes() == Path(f"{right}{suffix}").read_bytes() for suffix in (".bin", ".idx")
    )


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 65499), min_size=1, max_size=6), max_size=3), max_size=8),
    batch=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_equal_megatrons(tmp_path: Path, dtype: type[np.number], documents: Documents, batch: int) -> None:
    write_with_megatron(tmp_path / "megatron", documents, dtype)
    write_with_ours(tmp_path / "ours", documents, dtype, batch)
    assert same_bytes(tmp_path / "megatron", tmp_path / "ours")


def test_dtype_rule_is_megatrons() -> None:
    for vocab_size in (1, 65499, 65500, 65536, 200_000):
        assert optimal_dtype(vocab_size) == np.dtype(DType.optimal_dtype(vocab_size))


def test_pointers_are_right_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexed, "_CHUNK", 2)
    write_with_ours(tmp_path / "ours", SMALL * 3, np.int32)
    write_with_megatron(tmp_path / "megatron", SMALL * 3, np.int32)
    assert same_bytes(tmp_path / "megatron", tmp_path / "ours")


def test_append_equals_writing_at_once(tmp_path: Path) -> None:
    more: Documents = [[], [[7, 8]], []]
    write_with_ours(tmp_path / "a", SMALL, np.uint16)
    write_with_ours(tmp_path / "b", more, np.uint16)
    write_with_ours(tmp_path / "whole", SMALL + more + SMALL, np.uint16)
    with IndexedWriter(tmp_path / "merged.bin", tmp_path / "merged.idx", np.uint16) as writer:
        for name in ("a", "b", "a"):
            writer.append(tmp_path / name)
        assert (writer.num_documents, writer.num_sequences, writer.num_tokens) == (11, 9, 16)
        writer.close()
    assert same_bytes(tmp_path / "merged", tmp_path / "whole")
    write_with_ours(tmp_path / "wide", more, np.int32)
    with (
        IndexedWriter(tmp_path / "x.bin", tmp_path / "x.idx", np.uint16) as writer,
        pytest.raises(DataError, match="int32"),
    ):
        writer.append(tmp_path / "wide")


@pytest.mark.parametrize(("token", "max_id"), [(70_000, None), (-1, None), (100, 99)])
def test_ids_out_of_range_are_refused(tmp_path: Path, token: int, max_id: int | None) -> None:
    with (
        IndexedWriter(tmp_path / "x.bin", tmp_path / "x.idx", np.uint16, max_id) as writer,
        pytest.raises(DataError, match=str(token)),
    ):
        writer.add_documents(np.array([5, token]), np.array([2]), np.array([1]))


def test_reader_agrees_with_megatrons(tmp_path: Path) -> None:
    write_with_megatron(tmp_path / "x", SMALL, np.uint16)
    ours, theirs = IndexedReader(tmp_path / "x"), IndexedDataset(str(tmp_path / "x"))
    assert len(ours) == len(theirs) == 4
    assert [ours[i].tolist() for i in range(4)] == [theirs[i].tolist() for i in range(4)]
    assert ours.document_ends.tolist() == theirs.document_indices.tolist() == [0, 1, 1, 3, 4]
    assert np.concatenate(list(ours.iterate_tokens(chunk=2))).tolist() == [1, 2, 3, 4, 5, 6, 65499]


@pytest.mark.parametrize(
    ("suffix", "offset", "replacement", "message"),
    [
        (".bin", 12, b"", "12 bytes"),  # truncated
        (".bin", 14, b"\x00\x00", "16 bytes"),  # too long
        (".idx", 20, b"", "shorter than the header"),
        (".idx", 60, b"", "its header requires"),
        (".idx", 0, b"XXIDIDX", "not the index"),
        (".idx", 9, struct.pack("<Q", 2), "version 2"),
        (".idx", 17, b"\x09", "type 9"),
        (".idx", 17, b"\x04", "running sum"),  # int32 instead of uint16
        (".idx", 18, struct.pack("<Q", 5), "its header requires"),
        (".idx", 34, struct.pack("<i", -3), "negative length"),
        (".idx", 34, struct.pack("<ii", 2, 2), "running sum"),
        (".idx", 50 + 8, struct.pack("<q", 4), "running sum"),
        (".idx", 82, struct.pack("<q", 1), "document ends"),
        (".idx", 90, struct.pack("<q", 4), "document ends"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, offset: int, replacement: bytes, message: str) -> None:
    prefix = tmp_path / "x"
    write_with_ours(prefix, SMALL, np.uint16)
    IndexedReader(prefix)
    path = Path(f"{prefix}{suffix}")
    content = path.read_bytes()
    tail = content[offset + len(replacement) :] if replacement else b""
    path.write_bytes(content[:offset] + replacement + tail)
    with pytest.raises(DataError, match=message):
        IndexedReader(prefix)


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        IndexedReader(tmp_path / "absent")
    assert len(caught.value.problems) == 2
