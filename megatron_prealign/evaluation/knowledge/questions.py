"""Questions about facts: a prompt, choices of which one is right, and what the answers are counted by."""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from megatron_prealign.errors import Problems
from megatron_prealign.text.documents import Document, read_documents


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, as a line of JSON holds it."""

    prompt: str
    """Text before the answer, without a space at its end."""
    choices: tuple[str, ...]
    """What may follow, each with the space before it and all that ends the sentence."""
    answer: int
    """Index of the right choice."""
    relation: str
    """Name of the relation."""
    frequency: int
    """How often the fact was stated."""
    stated: str
    """Language in which it was stated."""
    asked: str
    """Language of the question."""
    answered: str = ""
    """Language of the choices; empty = that of the question."""
    fact: int
    """Number of the fact: the same in all languages of the question."""


_QUESTION = TypeAdapter(Question)


def read_questions(paths: Iterable[str], problems: Problems) -> list[Question]:
    """Read questions from JSONL files; what is wrong with them goes to `problems`."""
    found = (_parse(document, problems) for document in read_documents(paths, "prompt", problems))
    return [question for question in found if question is not None]


def _parse(document: Document, problems: Problems) -> Question | None:
    """Return the question of a line; None, with the reason in `problems`, where it holds none."""
    place = f"{document.path}:{document.line}"
    try:
        question = _QUESTION.validate_python(document.record)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        problems.add(f"{place}: no question ({told}); write them with tools/make_knowledge.py")
        return None
    if not question.prompt.strip():
        problems.add(f"{place}: its prompt is empty")
    elif len(set(question.choices)) < max(len(question.choices), 2) or not all(map(str.strip, question.choices)):
        problems.add(f"{place}: its choices must be two or more, none of them empty or there twice")
    elif not 0 <= question.answer < len(question.choices):
        problems.add(f"{place}: its answer is {question.answer}; it must be the index of one of its choices, from 0")
    else:
        return question
    return None
