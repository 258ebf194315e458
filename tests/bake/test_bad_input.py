"""Every kind of bad input ends the bake with a message that says where and what, and nothing under a final name."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from megatron_prealign.dataset.manifest import read_manifest
from tools.preprocess_codeswitch import main

GOOD = b'{"text": "the bank is here"}\n'


def corpus(line: bytes, name: str = "a.jsonl") -> Callable[[Path], list[str]]:
    """Return what writes a corpus with a line between good ones, and gives the options that name it."""

    def write(folder: Path) -> list[str]:
        (folder / name).write_bytes(GOOD + line + b"\n" + GOOD)
        return ["--input", str(folder / name)]

    return write


def long_line(folder: Path) -> list[str]:
    return corpus(b'{"text": "' + b"x" * 100_000_000 + b'"}')(folder)


def utf16(folder: Path) -> list[str]:
    (folder / "a.txt").write_text("the café", encoding="utf-16")
    return ["--input", str(folder / "a.txt")]


def empty(folder: Path) -> list[str]:
    (folder / "a.jsonl").touch()
    return ["--input", str(folder / "a.jsonl")]


def glob(folder: Path) -> list[str]:
    return ["--input", str(folder / "part-*.jsonl")]


def column(folder: Path) -> list[str]:
    parquet.write_table(pyarrow.table({"content": ["a"]}), folder / "a.parquet")
    return ["--input", str(folder / "a.parquet")]


def no_eod(folder: Path) -> list[str]:
    definition = json.loads((folder / "tok/tokenizer.json").read_text(encoding="utf-8"))
    definition["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    return [*corpus(GOOD)(folder), "--tokenizer-model", str(folder / "tokenizer.json"), "--append-eod"]


BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "not UTF-8": (corpus(b'{"text": "caf\xe9"}'), "a.jsonl:2: not UTF-8 at byte 13"),
    "text file that is not UTF-8": (corpus(b"caf\xe9", "a.txt"), "a.txt:2: 'utf-8' codec can't decode byte 0xe9"),
    "UTF-16 without a mark": (corpus("caf".encode("utf-16-le"), "a.txt"), "a.txt:2: contains NUL bytes, like UTF-16"),
    "UTF-16": (utf16, "a.txt: UTF-16; convert it to UTF-8"),
    "broken JSON": (corpus(b'{"text": "the'), "a.jsonl:2: not JSON"),
    "missing key": (corpus(b'{"content": "the"}'), "a.jsonl:2: no key 'text' (there are 'content')"),
    "null text": (corpus(b'{"text": null}'), "a.jsonl:2: the value of 'text' is a NoneType, not a string"),
    "100 MB line": (long_line, "a.jsonl:2: longer than 16 MiB"),
    "empty file": (empty, "a.jsonl: contains no document"),
    "glob without a match": (glob, "part-*.jsonl: no file matches"),
    "parquet without the column": (column, "a.parquet: no column 'text' (there are 'content')"),
    "tokenizer without EOD": (no_eod, "tokenizer.json: the tokenizer has no end-of-document token"),
}


@pytest.fixture
def folder(tmp_path: Path, bpe_folder: Path) -> Path:
    """A tokenizer and a dictionary."""
    (tmp_path / "tok").symlink_to(bpe_folder)
    (tmp_path / "en-de.tsv").write_text("the\tdie\tde\nbank\tUfer\tde\n", encoding="utf-8")
    return tmp_path


def arguments(folder: Path, *options: str) -> list[str]:
    """Return a bake's command line."""
    named = ["--tokenizer-model", f"{folder}/tok", "--lexicon", f"{folder}/en-de.tsv", "--codeswitch-ratio", "0.5"]
    return [*named, "--output-prefix", f"{folder}/out/en", "--workers", "1", "--backend", "reference", *options]


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_named(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, message = BAD[kind]
    assert main(arguments(folder, *write(folder))) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (folder / "out").exists() or list((folder / "out").iterdir()) == []


LINES = [kind for kind, (_, message) in BAD.items() if message.split(":")[1] == "2"]


@pytest.mark.parametrize("kind", LINES)
def test_bad_lines_can_be_left_out_and_are_counted(kind: str, folder: Path) -> None:
    write, message = BAD[kind]
    assert main(arguments(folder, *write(folder), "--on-error", "skip")) == 0
    manifest = read_manifest(folder / "out/en_text_document")
    assert (manifest.content["counts"]["documents"], manifest.content["counts"]["skipped"]) == (2, 1)
    assert message in manifest.provenance["skipped_examples"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--source-language", "english"), "--source-language english: not a language tag; write two or three letters"),
        (("--target-language", "German"), "--target-language German: not a language tag"),
        (("--language-weights", "fr=2"), "fr: no translations in"),
    ],
)
def test_languages_that_are_none_are_refused(
    options: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, *corpus(GOOD)(folder), *options)) == 2
    assert message in capsys.readouterr().err


def test_a_lexicon_of_another_source_language_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "en-de.tsv").write_text("Ufer\tbank\ten\nhier\there\ten\n", encoding="utf-8")
    assert main(arguments(folder, *corpus(GOOD)(folder))) == 0
    assert "the lexicon covers only 0 of the corpus's" in capsys.readouterr().err
    assert main(arguments(folder, *corpus(GOOD)(folder), "--codeswitch-ratio", "0", "--overwrite")) == 0
    assert "--codeswitch-ratio is 0, so nothing was switched" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("left", "message"), [("{", "damaged"), ("[" * 100_000, "damaged"), ("[]", "not the description")]
)
def test_a_damaged_work_folder_is_refused(
    folder: Path, left: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work = folder / "out/.en_text_document.bake"
    work.mkdir(parents=True)
    (work / "job.json").write_text(left, encoding="utf-8")
    assert main(arguments(folder, *corpus(GOOD)(folder), "--resume")) == 2
    error = capsys.readouterr().err
    assert f"job.json: {message}" in error and "--overwrite" in error
    assert main(arguments(folder, *corpus(GOOD)(folder), "--overwrite")) == 0
