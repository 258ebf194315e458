"""Batches of lines and the texts in them; every bad line is named."""

import gzip
import json
import re
from pathlib import Path

import pyarrow
import pytest
from backports import zstd
from pyarrow import parquet

from megatron_prealign.errors import DataError
from megatron_prealign.text import documents, files
from megatron_prealign.text.documents import locate, read_texts
from megatron_prealign.text.files import cut_into_pieces, expand_inputs


def read(paths: list[Path], json_key: str = "text") -> list[str]:
    """Read whole files whose lines are all usable."""
    texts = []
    for piece in cut_into_pieces(paths):
        for batch in read_texts(piece, json_key):
            assert not batch.bad_lines
            texts += batch.texts
    return texts


def bad_lines(path: Path, json_key: str = "text") -> list[str]:
    """Return what is said of a file's unusable lines."""
    return [
        f"{locate(piece, [index])[0]}: {problem}"
        for piece in cut_into_pieces([path])
        for batch in read_texts(piece, json_key)
        for index, problem in batch.bad_lines
    ]


def test_all_kinds_of_files_give_their_texts(tmp_path: Path) -> None:
    texts = ["Straße 银行", "", "two\nlines", " spaces "]
    lines = "".join(
        json.dumps({"id": 1, "text": text}, ensure_ascii=i % 2 == 0) + "\n\n" for i, text in enumerate(texts)
    )
    (tmp_path / "a.jsonl").write_text("\ufeff" + lines, encoding="utf-8")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "c.txt").write_bytes(b"one\r\n\n two \nthree")
    # Two frames, as `zstd --long` with threads or `cat a.zst b.zst` make them.
    half = len(lines) // 2
    (tmp_path / "d.jsonl.zst").write_bytes(zstd.compress(lines[:half].encode()) + zstd.compress(lines[half:].encode()))
    parquet.write_table(pyarrow.table({"id": range(4), "text": texts}), tmp_path / "e.parquet", row_group_size=3)
    paths = [tmp_path / name for name in ("a.jsonl", "b.json.gz", "c.txt", "d.jsonl.zst", "e.parquet", "a.jsonl")]
    assert expand_inputs(paths, "text") == (paths, [], [])
    assert read(paths) == [*texts, *texts, "one", " two ", "three", *texts, *texts, *texts]


def test_pieces_of_a_file_are_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{'x' * (number % 13)} {number}" for number in range(200)]
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" * (1 + len(text) % 2) for text in texts))
    rows = tmp_path / "b.parquet"
    parquet.write_table(pyarrow.table({"text": texts}), rows, row_group_size=7)
    for size in (1, 2, 31, 100, 1000, 100_000):
        monkeypatch.setattr(files, "_MIN_PIECE_BYTES", size)
        monkeypatch.setattr(documents, "BATCH_LINES", 1 + size % 5)
        assert read([lines]) == texts
        assert read([rows]) == texts
    assert len(cut_into_pieces([lines, rows])) == 2


def test_folders_and_globs_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("s/part-10.jsonl", "s/part-2.jsonl", "s/t/part-1.txt", "s/README.md", "s/.hidden/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths, problems, notes = expand_inputs([tmp_path / "s", str(tmp_path / "s/part-*.jsonl")], "text")
    names = [path.name for path in paths]
    assert names == ["part-2.jsonl", "part-10.jsonl", "part-1.txt", "part-2.jsonl", "part-10.jsonl"]
    assert problems == [] and "README.md" in notes[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": ', "not JSON"),
        (b'{"text": "a"} {"text": "b"}', "not JSON"),
        (b"NaN", "not an object"),
        (b'["text"]', "a JSON list"),
        (b'{"content": "a", "id": 2}', r"no key 'text' \(there are 'content', 'id'\).*--json-key"),
        (b'{"text": null}', "NoneType, not a string"),
        (b'{"text": 5}', "int, not a string"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 10"),
        (b'{"text": "\\ud800"}', "surrogates not allowed"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line + b'\n{"text": "fine"}\n' + line + b"\n")
    problems = bad_lines(path)
    assert [problem.startswith(f"{path}:{number}: ") for number, problem in zip((3, 5), problems, strict=True)]
    assert all(re.search(message, problem) for problem in problems)


def test_lines_are_counted_from_the_beginning_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join('{"text": "fine"}\n' if number % 7 else "bad\n" for number in range(1, 100)))
    for size in (3, 50, 64, 10_000):
        monkeypatch.setattr(files, "_MIN_PIECE_BYTES", size)
        assert [problem.split(": ")[0] for problem in bad_lines(path)] == [f"{path}:{n}" for n in range(7, 100, 7)]


def test_bad_rows_of_parquet_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", None, "c", None], "n": [1, 2, 3, 4]}), path, row_group_size=3)
    expected = [f"{path}: row {row}: the value of 'text' is a NoneType, not a string" for row in (2, 4)]
    for size in (1, 10_000):
        monkeypatch.setattr(files, "_MIN_PIECE_BYTES", size)
        assert bad_lines(path) == expected
    assert "no column 'body' (there are 'text', 'n')" in expand_inputs([path], "body")[1][0]
    assert "contains int64, not strings" in expand_inputs([path], "n")[1][0]
    path.write_bytes(b"PAR1 no parquet PAR1")
    assert "not a parquet file" in expand_inputs([path], "text")[1][0]


def test_very_long_lines_are_refused_and_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(documents, "BATCH_BYTES", 64)
    path = tmp_path / "a.txt"
    for text in (b"x" * 1001, b"x" * 5000, b"x" * 1001 + b"\n"):
        path.write_bytes(b"one\n" + text + b"\ntwo\n")
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
        for file in (path, tmp_path / "a.txt.gz"):
            assert [problem.split(": ")[0] for problem in bad_lines(file)] == [f"{file}:2"]
            batches = [batch for piece in cut_into_pieces([file]) for batch in read_texts(piece, "text")]
            assert [text for batch in batches for text in batch.texts] == ["one", "two"]


def test_text_files_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\ncaf\xe9\n")
    assert "a.txt:2: 'utf-8' codec" in bad_lines(path)[0]


def test_damaged_compression_is_named(tmp_path: Path) -> None:
    lines = b'{"text": "fine"}\n' * 1000
    checked = {zstd.CompressionParameter.checksum_flag: 1}
    for suffix, content in ((".gz", gzip.compress(lines)), (".zst", zstd.compress(lines, options=checked))):
        path = tmp_path / f"a.jsonl{suffix}"
        for damaged in (content[:-10], b"not compressed at all", content[:20] + b"\xff\xff\xff" + content[23:]):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match="can't be read completely"):
                read([path])


def test_wrong_names_are_found_without_reading(tmp_path: Path) -> None:
    (tmp_path / "a.doc").touch()
    (tmp_path / "empty").mkdir()
    names = [tmp_path / "absent.jsonl", tmp_path / "empty", tmp_path / "a.doc", str(tmp_path / "*.zst")]
    problems = expand_inputs(names, "text")[1]
    expected = ("no such", "contains no file", "no file matches", "unknown kind")
    assert [part in problem for part, problem in zip(expected, problems, strict=True)] == [True] * 4
    assert "no input" in expand_inputs([], "text")[1][0]
