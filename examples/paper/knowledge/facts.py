"""Facts about fictional entities, the sentences that state them, and the questions about them.

A fact is stated in one language only, a given number of times. The facts of one relation, language and frequency are
a cell. The wrong choices of a question are answers to other questions of its cell, and all answers of a cell are
equally often right (where the cell's size is no multiple of the number of its answers, as nearly as can be). So a model
that knows how often each answer was stated, but not of whom, is right no more often than by chance.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any, TypeVar

from examples.paper.knowledge.spec import Entity, KnowledgeSpec
from megatron_prealign.evaluation.kinds.knowledge import Question


@dataclass(frozen=True, kw_only=True)
class Design:
    """How many facts there are, in what languages and how often stated."""

    languages: tuple[str, ...]
    """Languages of the questions."""
    stated_in: tuple[str, ...]
    """Languages of the statements; each fact has one."""
    frequencies: tuple[int, ...]
    """How often a fact is stated; 0 for facts that are only asked."""
    facts_per_cell: int
    """Facts of each relation, language of statement and frequency."""
    num_choices: int
    """Answers to choose from, the right one among them."""
    seed: int
    """Of all draws."""


@dataclass(frozen=True)
class Fact:
    """One fact."""

    relation: str
    subject: Entity
    answer: Entity
    distractors: tuple[Entity, ...]
    language: str
    """In which it is stated."""
    frequency: int
    """How often it is stated."""


def design_problems(spec: KnowledgeSpec, design: Design) -> list[str]:
    """Return everything that keeps facts from being made."""
    unknown = sorted({*design.languages, *design.stated_in} - set(spec.languages))
    problems = [
        f"the specification has no templates in {language}; it has {', '.join(spec.languages)}" for language in unknown
    ]
    for name in ("languages", "stated_in", "frequencies"):
        values = getattr(design, name)
        if not values or len(set(values)) != len(values):
            problems.append(f"{name} is {' '.join(map(str, values)) or 'empty'}: name one or more, each once")
    if any(frequency < 0 for frequency in design.frequencies):
        problems.append("a frequency is below 0")
    if design.num_choices < 2:
        problems.append(f"choices is {design.num_choices}: at least 2 are needed")
    if design.facts_per_cell < design.num_choices:
        problems.append(
            f"facts is {design.facts_per_cell}, choices {design.num_choices}: the wrong choices are the answers of "
            "other facts of the same relation, language and frequency, so at least as many facts are needed"
        )
    if problems:
        return problems
    for name, relation in spec.relations.items():
        if (num_objects := spec.types[relation.object].num_entities) < design.num_choices:
            problems.append(
                f"relation {name}: {relation.object} has {num_objects} names for {design.num_choices} choices"
            )
    for name, kind in spec.types.items():
        needed = len(design.stated_in) * len(design.frequencies) * design.facts_per_cell
        if needed > kind.num_entities and any(relation.subject == name for relation in spec.relations.values()):
            problems.append(
                f"type {name} has {kind.num_entities} names, {needed} facts of a relation need one each; add names, or "
                "take fewer facts or frequencies"
            )
    return problems


def make_facts(spec: KnowledgeSpec, design: Design) -> list[Fact]:
    """Draw facts; each has its own subject within a relation. `design_problems` must have found none."""
    facts = []
    for name, relation in spec.relations.items():
        kind, subject_kind = spec.types[relation.object], spec.types[relation.subject]
        needed = len(design.stated_in) * len(design.frequencies) * design.facts_per_cell
        subjects = iter(Random(f"{design.seed} subjects {name}").sample(range(subject_kind.num_entities), needed))
        for language in design.stated_in:
            for frequency in design.frequencies:
                random = Random(f"{design.seed} cell {name} {language} {frequency}")
                pool = random.sample(range(kind.num_entities), min(kind.num_entities, design.facts_per_cell))
                for index in range(design.facts_per_cell):
                    answer = pool[index % len(pool)]
                    others = random.sample([one for one in pool if one != answer], design.num_choices - 1)
                    facts.append(
                        Fact(
                            name,
                            subject_kind.entity(next(subjects)),
                            kind.entity(answer),
                            tuple(map(kind.entity, others)),
                            language,
                            frequency,
                        )
                    )
    return facts


def statements(spec: KnowledgeSpec, facts: list[Fact], language: str, seed: int) -> list[dict[str, Any]]:
    """Return the sentences that state the facts of one language, shuffled: JSON objects of text and the fact's number.

    A fact that is stated more often than its relation has wordings goes through them again.
    """
    found = []
    for number, fact in enumerate(facts):
        if fact.language != language:
            continue
        num_templates = spec.num_templates(fact.relation, language)
        for repetition in range(fact.frequency):
            wording = spec.word(
                fact.relation, fact.subject, fact.answer, language, (number + repetition) % num_templates
            )
            found.append({"text": wording.prompt + wording.completion, "fact": number})
    Random(f"{seed} statements {language}").shuffle(found)
    return found


def questions(
    spec: KnowledgeSpec, facts: list[Fact], languages: tuple[str, ...], seed: int, original_answers: bool = False
) -> Iterator[Question]:
    """Yield one question about every fact in every language: the same choices in the same order, the same wording.

    Args:
        spec: names and wordings.
        facts: what to ask for.
        languages: to ask in.
        seed: of order and wording.
        original_answers: ask once more in each other language with the choices in that of the statement.
    """
    for number, fact in enumerate(facts):
        random = Random(f"{seed} question {number}")
        choices = [fact.answer, *fact.distractors]
        random.shuffle(choices)
        drawn = random.randrange(2**16)
        worded = {
            language: [
                spec.word(
                    fact.relation, fact.subject, choice, language, drawn % spec.num_templates(fact.relation, language)
                )
                for choice in choices
            ]
            for language in dict.fromkeys((*languages, fact.language))
        }
        pairs = [(language, language) for language in languages]
        pairs += [(language, fact.language) for language in languages if original_answers and language != fact.language]
        for asked, answered in pairs:
            yield Question(
                prompt=worded[asked][0].prompt,
                choices=tuple(wording.completion for wording in worded[answered]),
                answer=choices.index(fact.answer),
                relation=fact.relation,
                frequency=fact.frequency,
                stated=fact.language,
                asked=asked,
                answered=answered,
                fact=number,
            )


T = TypeVar("T")


def num_kept_at_end(num_documents: int, num_statements: int, tail_ratio: float) -> int:
    """Return how many of the last documents of a mix must be none of the statements."""
    return int(-(-(num_documents + num_statements) * tail_ratio // 1))


def mix(documents: Iterable[T], num_documents: int, statements: Sequence[T], tail: int, seed: int) -> Iterator[T]:
    """Yield documents in their order with statements between them, at random places before the last `tail` documents.

    Args:
        documents: of the corpus; read once, one at a time.
        num_documents: how many there are, at least `tail`.
        statements: in the order in which they are to come.
        tail: documents that nothing follows.
        seed: of the places.
    """
    left = iter(documents)
    num_before = num_documents - tail + len(statements)
    places = set(Random(f"{seed} places").sample(range(num_before), len(statements)))
    waiting = iter(statements)
    for place in range(num_before):
        yield from islice(waiting if place in places else left, 1)
    yield from left
