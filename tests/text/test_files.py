"""Names to files: links, brackets, names that are not UTF-8, addresses of other machines; compression and columns."""

import os
from pathlib import Path

import pyarrow
import pytest
from backports import zstd
from pyarrow import parquet

from megatron_prealign.config.data import find_prefixes
from megatron_prealign.errors import DataError, Problems
from megatron_prealign.files import leftovers
from megatron_prealign.text.documents import read_documents
from megatron_prealign.text.files import expand_inputs, find_files


def write(path: Path, text: str = "text\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_links_to_folders_are_followed_and_nothing_is_read_twice(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/deep/b.txt")
    write(tmp_path / "data/en/a.txt")
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/again").symlink_to(tmp_path / "data/en")
    (tmp_path / "data/en/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/.hidden").symlink_to(tmp_path / "elsewhere")
    paths, problems, notes = find_files([tmp_path / "data"])
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["data/en/a.txt", "data/linked/deep/b.txt"]
    assert problems == [] and len(notes) == 2
    assert all(f"{tmp_path}/data/{name}: is read already" in str(notes) for name in ("again", "en/loop"))


def test_a_link_to_nothing_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "absent")
    (tmp_path / "notes.md").symlink_to(tmp_path / "absent")
    paths, problems, _ = find_files([tmp_path])
    assert paths == [tmp_path / "a.txt"] and problems == [f"{tmp_path}/b.txt: a link to nothing; mend or remove it"]


def test_brackets_in_names_that_exist_are_no_pattern(tmp_path: Path) -> None:
    for name in ("data[1]/a[2].txt", "data[1]/a2.txt", "data1/a2.txt"):
        write(tmp_path / name)
    for pattern, names in (
        ("data[1]", ["a2.txt", "a[2].txt"]),
        ("data[1]/a[2].txt", ["a[2].txt"]),
        ("data[1]/*.txt", ["a2.txt", "a[2].txt"]),
        ("data[1]/a[1-3].txt", ["a2.txt"]),
    ):
        paths, problems, _ = find_files([f"{tmp_path}/{pattern}"])
        assert [path.relative_to(tmp_path / "data[1]").as_posix() for path in paths] == names and problems == []
    for name in ("v[1]/en_text_document.idx", "v[1]/de[x]_text_document.idx", "v1/fr_text_document.idx"):
        write(tmp_path / name)
    assert find_prefixes(f"{tmp_path}/v[1]/de[x]_text_document") == [f"{tmp_path}/v[1]/de[x]_text_document"]
    found = [f"{tmp_path}/v[1]/{name}_text_document" for name in ("de[x]", "en")]
    assert find_prefixes(f"{tmp_path}/v[1]/*_text_document") == found
    assert find_prefixes(f"{tmp_path}/v[0-9]/*_text_document") == [f"{tmp_path}/v1/fr_text_document"]
    write(tmp_path / ".a[1].json.tmp-1-2")
    assert leftovers(tmp_path / "a[1].json") == [tmp_path / ".a[1].json.tmp-1-2"]


def test_folders_that_a_pattern_matches_are_told(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    write(tmp_path / "b/c.txt")
    paths, problems, notes = find_files([f"{tmp_path}/*"])
    assert paths == [tmp_path / "a.txt"] and problems == [] and "1 of its matches are no files" in notes[0]
    assert find_files([f"{tmp_path}/b*"])[1] == [f"{tmp_path}/b*: no file matches"]


@pytest.mark.parametrize(
    "address", ["s3://bucket/a.jsonl", "hf://datasets/x/*.parquet", "gs://b/c", "https://a.b/c.txt"]
)
def test_addresses_of_other_machines_are_named(address: str) -> None:
    for name in (address, Path(address)):
        (problem,) = expand_inputs([name], "text")[1]
        assert problem == f"{address}: only files of this machine are read; copy or mount it"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_lines_that_end_with_cr_alone_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"text": "one"}\r{"text": "two"}\r')
    problems = Problems()
    assert list(read_documents([path], "text", problems)) == []
    with pytest.raises(DataError, match=r"its lines end with CR alone; convert them \(tr '\\r' '\\n'\)"):
        problems.raise_if_any()
    path.write_bytes(b'{"text": "one"}\r\n{"text": "two"}\r')
    assert len(list(read_documents([path], "text", Problems()))) == 2


def test_zstandard_of_any_window_is_read(tmp_path: Path) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
    (tmp_path / "a.txt.zst").write_bytes(compressor.compress(b"one\ntwo\n") + compressor.flush())
    problems = Problems()
    texts = [document.text for document in read_documents([tmp_path / "a.txt.zst"], "text", problems)]
    assert texts == ["one", "two"] and not problems.count


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"]), path)
    assert expand_inputs([path], "text")[1] == [f"{path}: 2 columns are named 'text'; rename or remove all but one"]


def test_parquet_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.parquet")
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").rename(path)
    assert "name is not UTF-8; rename it" in expand_inputs([path], "text")[1][0]
