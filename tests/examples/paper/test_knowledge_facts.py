"""Specifications of facts, the facts drawn from them, their statements and questions."""

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from examples.paper.clone_characters import clone_text
from examples.paper.knowledge.facts import (
    Design,
    design_problems,
    make_facts,
    mix,
    num_kept_at_end,
    questions,
    statements,
)
from examples.paper.knowledge.spec import KnowledgeSpec, Wording, read_spec
from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.kinds.knowledge import Question

SHIPPED = Path(__file__).resolve().parents[3] / "examples/paper/knowledge/spec.yaml"
SMALL = {
    "types": {
        "person": {
            "names": {
                "en": [["Ann", "Bob", "Cy"], ["of Tyre", "of Gaza"]],
                "zh": [["安", "鲍", "赛"], ["·推罗", "·迦萨"]],
            }
        },
        "color": {"names": {"en": [["red", "blue"]], "zh": [["红色", "蓝色"]]}},
    },
    "relations": {
        "likes": {
            "subject": "person",
            "object": "color",
            "templates": {"en": ["{subject} likes {object} best."], "zh": ["{subject}最喜欢{object}。"]},
        }
    },
}


@pytest.fixture(scope="module")
def shipped() -> KnowledgeSpec:
    return read_spec(SHIPPED)


def design(**changes: object) -> Design:
    values = {"languages": ("en", "clone", "de"), "stated_in": ("en", "de"), "frequencies": (0, 1, 8)}
    values |= {"facts_per_cell": 8, "num_choices": 4, "seed": 1}
    return Design(**(values | changes))  # type: ignore[arg-type]


def write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def test_names_and_sentences_follow_the_language(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path / "small.yaml", SMALL))
    assert spec.languages == ("clone", "en", "zh")
    person = spec.types["person"]
    assert person.num_entities == 6
    assert [person.entity(number) for number in (0, 1, 2, 5)] == [(0, 0), (0, 1), (1, 0), (2, 1)]
    assert spec.word("likes", (1, 1), (0,), "en", 0) == Wording("Bob of Gaza likes", " red best.")
    assert spec.word("likes", (1, 1), (0,), "zh", 0) == Wording("鲍·迦萨最喜欢", "红色。")
    cloned = spec.word("likes", (1, 1), (0,), "clone", 0)
    assert cloned == Wording(clone_text("Bob of Gaza likes"), clone_text(" red best."))


def test_each_fact_is_stated_as_often_as_it_should_be_in_one_language(shipped: KnowledgeSpec) -> None:
    facts = make_facts(shipped, design())
    assert len(facts) == len(shipped.relations) * 2 * 3 * 8
    assert len({(fact.relation, fact.subject) for fact in facts}) == len(facts)
    counted = {language: statements(shipped, facts, language, 1) for language in ("en", "de")}
    for language, found in counted.items():
        times = Counter(statement["fact"] for statement in found)
        expected = {number: fact.frequency for number, fact in enumerate(facts) if fact.language == language}
        assert times == Counter(expected)
    one = next(number for number, fact in enumerate(facts) if fact.frequency == 8 and fact.language == "de")
    texts = Counter(statement["text"] for statement in counted["de"] if statement["fact"] == one)
    # Four wordings, each twice, all with both names.
    assert sorted(texts.values()) == [2, 2, 2, 2]
    subject = shipped.types["ship"].name(facts[one].subject, "de")
    assert all(subject in text for text in texts)


def test_questions_are_the_same_in_every_language(shipped: KnowledgeSpec) -> None:
    facts = make_facts(shipped, design())
    asked = list(questions(shipped, facts, ("en", "clone", "de"), 1))
    assert len(asked) == 3 * len(facts)
    for number, group in itertools.groupby(asked, key=lambda question: question.fact):
        english, clone, german = group
        assert (clone.prompt, clone.choices) == (clone_text(english.prompt), tuple(map(clone_text, english.choices)))
        assert english.answer == clone.answer == german.answer
        fact = facts[number]
        answer = shipped.types[shipped.relations[fact.relation].object].name(fact.answer, "en")
        assert answer in english.choices[english.answer]
        assert len(set(english.choices)) == 4
        assert (english.stated, english.frequency, english.relation) == (fact.language, fact.frequency, fact.relation)
    both = [question for question in questions(shipped, facts, ("en", "clone", "de"), 1, original_answers=True)]
    assert [question for question in both if question.answered == question.asked] == asked
    others = [question for question in both if question.answered != question.asked]
    assert len(others) == 2 * len(facts)
    texts = {(question.fact, question.asked): question for question in asked}
    for question in others:
        assert question.answered == question.stated
        assert question.prompt == texts[question.fact, question.asked].prompt
        assert question.choices == texts[question.fact, question.stated].choices
    positions = Counter(question.answer for question in asked)
    assert min(positions.values()) > 0.15 * len(asked)


def test_who_knows_how_often_an_answer_was_stated_but_not_of_whom_is_at_chance(shipped: KnowledgeSpec) -> None:
    hits = []
    for seed in range(60):
        facts = make_facts(shipped, design(stated_in=("en",), seed=seed))
        popular: Counter[tuple[str, tuple[int, ...]]] = Counter()
        for fact in facts:
            popular[fact.relation, fact.answer] += fact.frequency
        for fact in (fact for fact in facts if fact.frequency == 8):
            choices = (fact.answer, *fact.distractors)
            votes = [(popular[fact.relation, choice], choice) for choice in choices]
            hits.append(max(votes)[1] == fact.answer)
    # 2,400 guesses: three deviations are 0.027. Were the wrong choices any of the type, it would be 0.40.
    assert sum(hits) / len(hits) == pytest.approx(0.25, abs=0.027)


def test_the_seed_decides_everything(shipped: KnowledgeSpec) -> None:
    facts = make_facts(shipped, design())
    assert make_facts(shipped, design()) == facts
    assert make_facts(shipped, design(seed=2)) != facts
    # A frequency more leaves the other cells' answers as they are.
    more = make_facts(shipped, design(frequencies=(0, 1, 8, 16)))
    cell = [(fact.answer, fact.distractors) for fact in facts if fact.frequency == 8]
    assert [(fact.answer, fact.distractors) for fact in more if fact.frequency == 8] == cell
    assert statements(shipped, facts, "en", 1) != statements(shipped, facts, "en", 2)


def test_everything_wrong_with_a_specification_is_told(tmp_path: Path) -> None:
    wrong = json.loads(json.dumps(SMALL))
    wrong["types"]["person"]["names"]["zh"][0] = ["安", "安"]
    wrong["relations"]["likes"]["templates"]["en"] = ["{object} is liked by {subject}.", "caf\u0561 {subject} {object}"]
    wrong["relations"]["owns"] = {"subject": "person", "object": "animal", "templates": {"en": ["{subject} {object}"]}}
    with pytest.raises(DataError) as raised:
        read_spec(write(tmp_path / "wrong.yaml", wrong))
    for problem in (
        "types.person.names: the lists differ in length (en 3x2, zh 2x2)",
        "types.person.names.zh: 安 occur twice",
        "relations.likes.templates.en: '{object} is liked by {subject}.' must contain {subject} once",
        "which English-Clone uses itself",
        "relations.owns.object: unknown type animal; known are color, person",
        "relations.owns.templates: nothing in zh, which others have",
    ):
        assert problem in str(raised.value), problem
    with pytest.raises(DataError, match="types: should be"):
        read_spec(write(tmp_path / "list.yaml", {"types": [], "relations": {}}))
    (tmp_path / "bad.yaml").write_text("types: [")
    for name, reason in (("bad.yaml", "not valid YAML"), ("none.yaml", "no such file")):
        with pytest.raises(DataError, match=reason):
            read_spec(tmp_path / name)


def test_everything_wrong_with_a_design_is_told(tmp_path: Path, shipped: KnowledgeSpec) -> None:
    assert design_problems(shipped, design()) == []
    wrong = design(languages=("en", "fr"), frequencies=(1, 1, -2), facts_per_cell=3)
    told = " ".join(design_problems(shipped, wrong))
    for problem in ("no templates in fr", "frequencies is 1 1 -2", "below 0", "at least as many facts are needed"):
        assert problem in told, problem
    small = read_spec(write(tmp_path / "small.yaml", SMALL))
    few = replace(design(stated_in=("en",), languages=("en",)), num_choices=3)
    told = " ".join(design_problems(small, few))
    assert "relation likes: color has 2 names for 3 choices" in told
    assert "type person has 6 names, 24 facts of a relation need one each" in told


def test_statements_are_mixed_in_but_for_the_end() -> None:
    assert num_kept_at_end(90, 10, 0.1) == 10
    mixed = list(mix(range(90), 90, [-1 - number for number in range(10)], tail=10, seed=3))
    assert [item for item in mixed if item >= 0] == list(range(90))
    assert [item for item in mixed if item < 0] == list(range(-1, -11, -1))
    assert min(mixed[-10:]) >= 0
    places = [place for place, item in enumerate(mixed) if item < 0]
    assert max(places) - min(places) > 40
    assert list(mix(range(5), 5, [], tail=5, seed=0)) == list(range(5))


def test_a_question_is_plain_json(shipped: KnowledgeSpec) -> None:
    question = next(questions(shipped, make_facts(shipped, design()), ("en",), 1))
    assert isinstance(question, Question)
    assert not question.prompt.endswith(" ")
    assert all(choice.startswith(" ") for choice in question.choices)
