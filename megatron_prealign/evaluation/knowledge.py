"""Questions about facts: a prompt and choices; accuracies on them with intervals, chance and ceiling."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter, ValidationError

from megatron_prealign.errors import Problems
from megatron_prealign.evaluation.intervals import wilson_interval
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


Right = Mapping[str, Sequence[bool]]
"""By the way of scoring ("accuracy", "accuracy_normalised"): whether each question was answered right."""

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
        problems.add(f"{place}: no question ({told}); write them with examples/paper/make_knowledge.py")
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


def choose_centred(questions: Sequence[Question], log_probs: Sequence[Sequence[float]]) -> list[int]:
    """Return for each question the choice that gains most over its own mean in all questions of the relation with it.

    So how likely a choice is in itself counts nothing: a model that has seen little of a language has strong and
    arbitrary preferences among its words.

    Args:
        questions: all that were asked.
        log_probs: of each question's choices.
    """
    seen: dict[tuple[str, ...], list[float]] = {}
    for question, scores in zip(questions, log_probs, strict=True):
        for choice, score in zip(question.choices, scores, strict=True):
            seen.setdefault(_occurrence(question, choice), []).append(score)
    means = {occurrence: fmean(scores) for occurrence, scores in seen.items()}
    chosen = []
    for question, scores in zip(questions, log_probs, strict=True):
        gains = [
            score - means[_occurrence(question, choice)] for choice, score in zip(question.choices, scores, strict=True)
        ]
        chosen.append(gains.index(max(gains)))
    return chosen


def _occurrence(question: Question, choice: str) -> tuple[str, ...]:
    return question.asked, question.answered, question.relation, choice


def summarise(questions: Sequence[Question], right: Right) -> dict[str, Any]:
    """Return results by "stated-asked", the pair of languages; by "stated-asked-answered" where choices are in another.

    Each pair has the scores of all facts that were stated (`score`), those by_frequency and by_relation, and
    `ceiling`: the accuracy on questions in the language in which the same facts were stated, none without them.
    """
    pairs: dict[str, Any] = {}
    for pair in dict.fromkeys(map(_pair, questions)):
        chosen = [index for index, question in enumerate(questions) if _pair(question) == pair]
        # Facts that nobody stated are a control, not a part of the whole.
        stated = [index for index in chosen if questions[index].frequency > 0] or chosen
        pairs[pair] = score(questions, right, stated) | {
            "by_frequency": _by(questions, right, chosen, lambda question: question.frequency),
            "by_relation": _by(questions, right, stated, lambda question: question.relation),
        }
    for pair, row in pairs.items():
        language = next(question.stated for question in questions if _pair(question) == pair)
        row["ceiling"] = pairs.get(f"{language}-{language}", {}).get("accuracy")
    return pairs


def score(questions: Sequence[Question], right: Right, chosen: Sequence[int]) -> dict[str, Any]:
    """Return the score of some questions: each accuracy, the 95 % interval of the first, chance, and their number."""
    hits = {name: sum(flags[index] for index in chosen) for name, flags in right.items()}
    low, high = wilson_interval(next(iter(hits.values())), len(chosen))
    return {
        **{name: count / len(chosen) for name, count in hits.items()},
        "low": low,
        "high": high,
        "chance": sum(1 / len(questions[index].choices) for index in chosen) / len(chosen),
        "num_questions": len(chosen),
    }


def _by(
    questions: Sequence[Question], right: Right, chosen: Sequence[int], key: Callable[[Question], Any]
) -> dict[str, Any]:
    """Return scores by what a key tells apart, in its order."""
    groups: dict[Any, list[int]] = {}
    for index in chosen:
        groups.setdefault(key(questions[index]), []).append(index)
    return {str(group): score(questions, right, groups[group]) for group in sorted(groups)}


def _pair(question: Question) -> str:
    pair = f"{question.stated}-{question.asked}"
    return pair if question.answered in ("", question.asked) else f"{pair}-{question.answered}"
