"""The evaluation of knowledge: accuracies by hand, chance for a model that knows nothing, refusals."""

import json
from pathlib import Path

import pytest

from examples.paper.make_knowledge import main as make_knowledge
from megatron_prealign.evaluation.folder import open_folder
from megatron_prealign.evaluation.kinds import knowledge
from megatron_prealign.evaluation.kinds.knowledge import Question, choose_centred, summarise, wilson_interval
from tests.evaluation.folders import make_folder

SPEC = str(Path(__file__).resolve().parents[2] / "examples/paper/knowledge/spec.yaml")


def question(relation: str, frequency: int, asked: str, fact: int, answered: str = "") -> Question:
    facts = {
        "fact": fact,
        "relation": relation,
        "frequency": frequency,
        "stated": "en",
        "asked": asked,
        "answered": answered,
    }
    return Question(prompt="The", choices=(" a", " b"), answer=0, **facts)  # type: ignore[arg-type]


def test_accuracies_are_counted_by_pair_frequency_and_relation() -> None:
    asked = [
        question(relation, frequency, language, fact)
        for language in ("en", "de")
        for fact, (relation, frequency) in enumerate([("likes", 0), ("likes", 1), ("owns", 4), ("owns", 4)])
    ]
    right = {"accuracy": [True, False, True, True, True, False, False, True], "accuracy_normalised": [False] * 8}
    pairs = summarise(asked, right)
    assert list(pairs) == ["en-en", "en-de"]
    german = pairs["en-de"]
    # Facts that nobody stated stand apart.
    assert german["accuracy"] == pytest.approx(1 / 3)
    assert (german["low"], german["high"]) == wilson_interval(1, 3)
    assert (german["num_questions"], german["chance"], german["accuracy_normalised"]) == (3, 0.5, 0.0)
    assert german["ceiling"] == pairs["en-en"]["accuracy"] == pytest.approx(2 / 3)
    by_frequency = {key: (row["accuracy"], row["num_questions"]) for key, row in german["by_frequency"].items()}
    assert by_frequency == {"0": (1.0, 1), "1": (0.0, 1), "4": (0.5, 2)}
    by_relation = {key: (row["accuracy"], row["num_questions"]) for key, row in german["by_relation"].items()}
    assert by_relation == {"likes": (0.0, 1), "owns": (0.5, 2)}
    assert summarise([question("owns", 2, "de", 0)], {"accuracy": [True]})["en-de"]["ceiling"] is None
    apart = summarise([question("owns", 2, "de", 0), question("owns", 2, "de", 0, "en")], {"accuracy": [True, False]})
    assert {pair: row["accuracy"] for pair, row in apart.items()} == {"en-de": 1.0, "en-de-en": 0.0}


def test_a_choice_that_is_likely_in_itself_gains_nothing_when_centred() -> None:
    two = [question("owns", 2, "de", fact) for fact in (0, 1)]
    # " a" has -1 always, " b" -3 on average: the first question prefers " b" more than the second does.
    assert choose_centred(two, [(-1.0, -2.0), (-1.0, -4.0)]) == [1, 0]
    # Another relation's preferences are its own.
    asked = [*two, question("likes", 2, "de", 2), question("likes", 2, "de", 3)]
    scores = [(-1.0, -2.0), (-1.0, -4.0), (-9.0, -1.0), (-7.0, -1.0)]
    assert choose_centred(asked, scores) == [1, 0, 1, 0]


def test_a_random_model_is_at_chance(tmp_path: Path) -> None:
    arguments = ["--spec", SPEC, "--frequencies", "1", "8", "--facts", "12", "--output", str(tmp_path / "made")]
    assert make_knowledge(arguments) == 0
    options = knowledge.Options(questions=(str(tmp_path / "made/questions.jsonl"),))
    assert knowledge.check(options) == []
    folder = open_folder(make_folder(tmp_path / "tiny", max_position_embeddings=128))
    told: list[tuple[int, int]] = []
    results = knowledge.run(folder, options, lambda done, total, part="": told.append((done, total)))
    assert told[-1] == (4 * 240, 4 * 240)
    for row in results["pairs"].values():
        assert row["num_questions"] == 120
        assert row["low"] < row["chance"] == 0.25 < row["high"]
        assert row["accuracy_normalised"] == pytest.approx(0.25, abs=0.12)
        assert row["accuracy_centred"] == pytest.approx(0.25, abs=0.12)
    titles = [table.title for table in knowledge.tables("knowledge", json.loads(json.dumps(results)))]
    assert titles == ["Knowledge, accuracy", "Knowledge, accuracy"]


def test_everything_wrong_with_questions_is_told_at_once(tmp_path: Path) -> None:
    good = {"prompt": "The", "choices": [" a", " b"], "answer": 1, "relation": "r", "frequency": 1}
    good |= {"stated": "en", "asked": "de", "fact": 0}
    lines = [
        good,
        {key: value for key, value in good.items() if key != "answer"},
        good | {"answer": 2},
        good | {"choices": [" a", " a"]},
        good | {"choices": [" a"]},
        good | {"prompt": " "},
        {"question": "?"},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = knowledge.check(knowledge.Options(questions=(str(path), str(tmp_path / "none.jsonl"))))
    expected = [
        ":2: not a question (answer: Field required)",
        ":3: its answer is 2",
        ":4: it needs two or more choices",
        ":5: it needs two or more choices",
        ":6: its prompt is empty",
        ":7: no text under the key 'prompt'",
        "none.jsonl: no such input file",
    ]
    assert len(told) == len(expected)
    for problem in expected:
        assert any(problem in line for line in told), problem
