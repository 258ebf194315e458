"""examples/paper/make_transfer_task.py: passages, balance, no text in both parts, refusals."""

import json
from collections import Counter
from pathlib import Path

import pytest

from examples.paper.clone_characters import clone_text
from examples.paper.make_transfer_task import main


def document(section: str, name: str, num_words: int) -> dict[str, str]:
    return {"text": " ".join(f"{section}{name}{index}" for index in range(num_words)) + "\nend", "section": section}


def write(path: Path, records: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_passages_are_as_long_as_many_and_in_one_part_only(tmp_path: Path) -> None:
    documents = [document(section, name, 100) for section in ("law", "letters") for name in ("a", "b")]
    train = write(tmp_path / "train.jsonl", [*documents, document("rare", "a", 20)])
    # The test repeats a document of the training, and has one of its own for each label.
    test = write(tmp_path / "test.jsonl", [documents[0], *(document(one, "c", 60) for one in ("law", "letters"))])
    arguments = ["--train", train, "--test", test, "--words", "10", "--train-per-label", "8", "--test-per-label", "5"]
    for name in ("one", "two"):
        assert main([*arguments, "--clone", "--output", str(tmp_path / name)]) == 0
    made = {path.name: read(path) for path in sorted((tmp_path / "one").iterdir())}
    assert list(made) == ["test.clone.jsonl", "test.en.jsonl", "train.en.jsonl"]
    assert made == {name: read(tmp_path / "two" / name) for name in made}
    assert Counter(one["label"] for one in made["train.en.jsonl"]) == {"law": 8, "letters": 8}
    assert Counter(one["label"] for one in made["test.en.jsonl"]) == {"law": 5, "letters": 5}
    assert {len(one["text"].split(" ")) for part in made.values() for one in part} == {10}
    texts = {name: {one["text"] for one in part} for name, part in made.items()}
    assert len(texts["train.en.jsonl"]) == 16
    assert texts["train.en.jsonl"].isdisjoint(texts["test.en.jsonl"])
    assert [one["text"] for one in made["test.clone.jsonl"]] == [
        clone_text(one["text"]) for one in made["test.en.jsonl"]
    ]


def test_everything_wrong_is_told_and_nothing_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write(tmp_path / "train.jsonl", [document("law", "a", 50), {"text": "no section"}])
    output = tmp_path / "out"
    arguments = ["--train", train, "--test", str(tmp_path / "none.jsonl"), "--output", str(output)]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "train.jsonl:2: no label under the key 'section'" in told
    assert "none.jsonl: no such input file" in told
    write(tmp_path / "train.jsonl", [document("law", "a", 50)])
    few = write(tmp_path / "test.jsonl", [document("law", "b", 50), document("letters", "b", 50)])
    assert main(["--train", train, "--test", few, "--words", "10", "--output", str(output)]) == 2
    assert "found: law 5 and 5; letters 0 and 5" in capsys.readouterr().err
    assert main([*arguments, "--words", "0", "--train-per-label", "0"]) == 2
    assert "--train-per-label is 0" in capsys.readouterr().err
    assert not output.exists()
