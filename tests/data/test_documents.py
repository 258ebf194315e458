"""Batches of lines and the texts in them; every bad line is named."""

import gzip
import json
from pathlib import Path

import pytest

from megatron_prealign.data import documents
from megatron_prealign.data.documents import LineBatch, input_problems, parse_batch, read_batches
from megatron_prealign.errors import DataError


def read_texts(paths: list[Path], json_key: str = "text") -> list[str]:
    """Read whole files."""
    return [text for batch in read_batches(paths) for text in parse_batch(batch, json_key)]


def test_all_kinds_of_files_give_their_texts(tmp_path: Path) -> None:
    texts = ["Straße 银行", "", "two\nlines", " spaces "]
    lines = "".join(
        json.dumps({"id": 1, "text": text}, ensure_ascii=i % 2 == 0) + "\n\n" for i, text in enumerate(texts)
    )
    (tmp_path / "a.jsonl").write_text("\ufeff" + lines, encoding="utf-8")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "c.txt").write_bytes(b"one\r\n\n two \nthree")
    paths = [tmp_path / name for name in ("a.jsonl", "b.json.gz", "c.txt", "a.jsonl")]
    assert input_problems(paths) == []
    assert read_texts(paths) == [*texts, *texts, "one", " two ", "three", *texts]


def test_batches_are_bounded_and_know_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BATCH_BYTES", 100)
    monkeypatch.setattr(documents, "BATCH_LINES", 4)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {number}\n" for number in range(1, 101)))
    batches = list(read_batches([path, path]))
    assert max(len(batch.lines) for batch in batches) == 4
    for batch in batches:
        assert batch.lines[0] == f"line {batch.first_line}\n".encode()
    assert batches[-1].consumed == 2 * path.stat().st_size
    assert [b.consumed for b in batches] == sorted(b.consumed for b in batches)


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
    with pytest.raises(DataError, match=message) as caught:
        read_texts([path])
    assert [
        problem.startswith(f"{path}:{number}: ") for number, problem in zip((3, 5), caught.value.problems, strict=True)
    ]
    assert len(caught.value.problems) == 2


def test_text_files_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    batch = LineBatch(tmp_path / "a.txt", 7, [b"fine\n", b"caf\xe9\n"], 0)
    with pytest.raises(DataError, match=r"a\.txt:8: .*utf-8"):
        parse_batch(batch, "text")


def test_damaged_compression_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    content = gzip.compress(b'{"text": "fine"}\n' * 1000)
    for damaged in (content[:-10], b"no gzip at all", content[:20] + b"\xff\xff\xff" + content[23:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="can't be read to its end"):
            read_texts([path])


def test_wrong_names_are_found_without_reading(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    problems = input_problems([tmp_path / "absent.jsonl", tmp_path, tmp_path / "a.parquet"])
    assert ["no such" in problems[0], "folder" in problems[1], "unknown kind" in problems[2]] == [True] * 3
    assert "no input" in input_problems([])[0]
