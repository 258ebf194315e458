"""examples/paper/make_knowledge.py: its files, mixed corpora, refusals."""

import json
from pathlib import Path

import pytest

from examples.paper.make_knowledge import main
from megatron_prealign.errors import Problems
from megatron_prealign.evaluation.kinds.knowledge import read_questions

SPEC = str(Path(__file__).resolve().parents[3] / "examples/paper/knowledge/spec.yaml")


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_same_arguments_make_the_same_facts_mixed_corpora_and_questions(tmp_path: Path) -> None:
    corpus = [{"body": f"Document {number}.", "id": number} for number in range(200)]
    (tmp_path / "en.jsonl").write_text("".join(json.dumps(record) + "\n" for record in corpus))
    arguments = ["--spec", SPEC, "--languages", "en", "clone", "--stated-in", "en", "clone", "--frequencies", "0", "2"]
    arguments += ["--facts", "4", "--mix-into", f"en={tmp_path / 'en.jsonl'}", "--json-key", "body"]
    for name in ("one", "two"):
        assert main([*arguments, "--output", str(tmp_path / name)]) == 0
    made = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert made == ["design.json", "facts.clone.jsonl", "facts.en.jsonl", "mixed.en.jsonl", "questions.jsonl"]
    for name in made:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    facts, mixed = read(tmp_path / "one/facts.en.jsonl"), read(tmp_path / "one/mixed.en.jsonl")
    assert len(facts) == len(read(tmp_path / "one/facts.clone.jsonl")) == 5 * 4 * 2
    assert [record for record in mixed if "id" in record] == corpus
    assert [record["body"] for record in mixed if "fact" in record] == [fact["text"] for fact in facts]
    assert all("id" in record for record in mixed[-24:])
    problems = Problems()
    asked = read_questions([str(tmp_path / "one/questions.jsonl")], problems)
    assert problems.count == 0
    assert len(asked) == 5 * 4 * 2 * 2 * 2
    assert {(question.stated, question.asked) for question in asked} == {
        (stated, language) for stated in ("en", "clone") for language in ("en", "clone")
    }
    assert json.loads((tmp_path / "one/design.json").read_text())["design"]["frequencies"] == [0, 2]
    assert main([*arguments, "--output", str(tmp_path / "one")]) == 2
    assert main([*arguments, "--output", str(tmp_path / "one"), "--overwrite"]) == 0


def test_everything_wrong_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--spec", SPEC, "--languages", "en", "fr", "--mix-into", "de=x.jsonl", "--mix-into", "en"]
    arguments += ["--facts", "2", "--tail-ratio", "1.5", "--output", str(tmp_path / "no/where")]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    for problem in (
        "its folder does not exist",
        "--tail-ratio is 1.5",
        "no fact is stated in de",
        "--mix-into en: write it as LANGUAGE=PATH",
        "no templates in fr",
        "facts is 2, choices 4",
    ):
        assert problem in told, problem
    (tmp_path / "few.jsonl").write_text('{"text": "One."}\n')
    output = tmp_path / "out"
    arguments = ["--spec", SPEC, "--mix-into", f"en={tmp_path / 'few.jsonl'}", "--output", str(output)]
    assert main(arguments) == 2
    assert "1 documents are too few for 5080 statements" in capsys.readouterr().err
    assert main(["--spec", str(tmp_path / "none.yaml"), "--output", str(output)]) == 2
    assert not output.exists()
