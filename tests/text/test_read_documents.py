import gzip
from pathlib import Path

import pytest
from backports import zstd

from megatron_prealign.errors import DataError, Problems
from megatron_prealign.text.documents import read_documents


def test_jsonl_and_text_files_stream_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one\\ntwo", "id": 7}\n\n{"body": ""}\n', encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf three \r\n\nfour")
    problems = Problems()
    documents = list(read_documents([tmp_path / "a.jsonl", str(tmp_path / "b.txt")], "body", problems))
    assert not problems.count
    assert [(d.path.name, d.line, d.text) for d in documents] == [
        ("a.jsonl", 1, "one\ntwo"),
        ("a.jsonl", 3, ""),
        ("b.txt", 1, " three "),
        ("b.txt", 3, "four"),
    ]
    assert documents[0].record == {"body": "one\ntwo", "id": 7}
    assert documents[2].record == {"body": " three "}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b'{"text": "x"', r"a\.jsonl:1: not JSON"),
        ("a.jsonl", b'{"text": 3}', r"a\.jsonl:1: no text under the key 'text'"),
        ("a.jsonl", b'{"body": "x"}', "--json-key"),
        ("a.jsonl", b'["text"]', "no text"),
        ("a.jsonl", b'{"text": "a\\ud800"}', "surrogate"),
        ("a.txt", b"fine\nB\xe4r", r"a\.txt:2: not UTF-8 at byte 1"),
        ("a.txt", b"\n  \n", r"a\.txt: contains no document"),
        ("a.txt", None, r"a\.txt: no such input file"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: (JSON nested too deeply|not JSON)"),
        ("a.jsonl.zst", zstd.compress(b'{"text": "x"}' * 99)[:-9], r"a\.jsonl\.zst: can't be read completely"),
        ("a.txt.gz", b"no gzip", r"a\.txt\.gz: can't be read completely"),
        ("a.parquet", b"PAR1", r"a\.parquet: not a parquet file"),
    ],
)
def test_what_cannot_be_read_is_a_problem(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    problems = Problems()
    list(read_documents([tmp_path / name], "text", problems))
    with pytest.raises(DataError, match=reason):
        problems.raise_if_any()


def test_folders_and_packed_files(tmp_path: Path) -> None:
    (tmp_path / "part-10.txt").write_text("three\n", encoding="utf-8")
    (tmp_path / "part-9.jsonl.gz").write_bytes(gzip.compress(b'{"text": "two"}\n'))
    (tmp_path / "part-8.jsonl.zst").write_bytes(zstd.compress(b'{"text": "one"}\n'))
    (tmp_path / "README.md").touch()
    problems = Problems()
    documents = [*read_documents([tmp_path], "text", problems), *read_documents([f"{tmp_path}/*.gz"], "text", problems)]
    problems.raise_if_any()
    assert [document.text for document in documents] == ["one", "two", "three", "two"]
