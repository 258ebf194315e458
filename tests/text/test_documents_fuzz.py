"""Whatever bytes a file holds: texts, named bad lines, or an error that names the file; never a traceback."""

import gzip
import io
from pathlib import Path

import pyarrow
import pytest
from backports import zstd
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from megatron_prealign.errors import DataError
from megatron_prealign.text.documents import locate, read_texts
from megatron_prealign.text.files import cut_into_pieces, expand_inputs

LINES = b'{"text": "one"}\n{"text": "two"}\n\n{"id": 3}\n' * 40


def _parquet() -> bytes:
    sink = io.BytesIO()
    table = pyarrow.table({"text": ["one", None, "two" * 50] * 50})
    parquet.write_table(table, sink, row_group_size=40)
    return sink.getvalue()


WHOLE = {
    ".jsonl": LINES,
    ".txt": LINES,
    ".jsonl.gz": gzip.compress(LINES, mtime=0),
    ".json.zst": zstd.compress(LINES),
    ".parquet": _parquet(),
}


def check(path: Path) -> None:
    """Read a file as the bake does; everything but the allowed outcomes is raised."""
    _, problems, _ = expand_inputs([path], "text")
    if problems:
        assert all(problem.startswith(str(path)) for problem in problems)
        return
    try:
        for piece in cut_into_pieces([path]):
            for batch in read_texts(piece, "text"):
                assert all(isinstance(text, str) and text.encode() is not None for text in batch.texts)
                places = locate(piece, [index for index, _ in batch.bad_lines])
                assert all(place.startswith(str(path)) for place in places)
    except DataError as error:
        assert all(problem.startswith(str(path)) for problem in error.problems)


@pytest.mark.parametrize("suffix", WHOLE)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
@example(data=b"")
@example(data=b"\xef\xbb\xbf")
@example(data=b'{"text": "\\ud800"}\n' + b"[" * 5000)
def test_random_bytes(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    check(path)


@pytest.mark.parametrize("suffix", WHOLE)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4), cut=st.integers(0, 10_000))
@example(edits=[(987, 128)], cut=1)
@example(edits=[(266, 128)], cut=1)
def test_damaged_files(tmp_path: Path, suffix: str, edits: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(WHOLE[suffix])
    for position, value in edits:
        damaged[position % len(damaged)] = value
    if cut % 3 == 0:
        del damaged[cut % len(damaged) :]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(damaged)
    check(path)
