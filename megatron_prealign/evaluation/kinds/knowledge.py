"""Cross-lingual knowledge application: facts stated in one language, asked in another."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.table import Table

from megatron_prealign.errors import Problems
from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.frame import Evaluation, Paths, Progress, Results, as_title, cell, problems_of
from megatron_prealign.text.documents import Document, read_documents


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to ask."""

    questions: Paths
    """Files of questions, as examples/paper/make_knowledge.py writes them."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question; the keys of a line of JSON are its fields."""

    prompt: str
    """Text before the answer, without a space at its end."""
    choices: tuple[str, ...]
    """Possible continuations, each with the space before it and the end of the sentence."""
    answer: int
    """Index of the right choice."""
    relation: str
    """Name of the relation."""
    frequency: int
    """Number of times that the fact was stated."""
    stated: str
    """Language in which it was stated."""
    asked: str
    """Language of the question."""
    answered: str = ""
    """Language of the choices; empty = that of the question."""
    fact: int
    """Number of the fact: the same in all languages of the question."""

    @property
    def languages(self) -> str:
        """The pair "stated-asked"; "stated-asked-answered" if the choices are in another language than the question."""
        names = (self.stated, self.asked, self.answered)
        return "-".join(names[:2] if self.answered in ("", self.asked) else names)


Right = Mapping[str, Sequence[bool]]
"""By the way of scoring ("accuracy", "accuracy_normalised"): whether each question was answered right."""

_QUESTION = TypeAdapter(Question)
_Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def check(options: Options) -> list[str]:
    """Return what is wrong with the questions."""
    return problems_of(lambda: _read(options))


def run(folder: ModelFolder, options: Options, progress: Progress) -> Results:
    """Return pairs: by "stated-asked" accuracies with intervals, chance and ceiling, as `summarise` gives them."""
    from megatron_prealign.evaluation.scoring import score_completions

    questions = _read(options)
    scored = score_completions(folder, [(question.prompt, question.choices) for question in questions], progress)
    chosen = {
        "accuracy": [scores.best(normalised=False) for scores in scored],
        "accuracy_normalised": [scores.best(normalised=True) for scores in scored],
        "accuracy_centred": choose_centred(questions, [scores.log_probs for scores in scored]),
    }
    right = {
        name: [choice == question.answer for question, choice in zip(questions, choices, strict=True)]
        for name, choices in chosen.items()
    }
    return {"pairs": summarise(questions, right)}


def tables(name: str, results: Results) -> Iterator[Table]:
    """Yield a table with one row per frequency, and one with one row per relation, for all pairs of languages."""
    pairs = results["pairs"].values()
    for key, heading in (("by_frequency", "times stated"), ("by_relation", "relation")):
        table = Table(heading, *results["pairs"], title=f"{as_title(name)}, accuracy")
        for group in dict.fromkeys(group for row in pairs for group in row[key]):
            table.add_row(group, *(_accuracy(row[key].get(group)) for row in pairs))
        table.add_row("stated, all", *map(_accuracy, pairs))
        table.add_row("ceiling", *(cell(row["ceiling"]) for row in pairs))
        table.add_row("chance", *(cell(row["chance"]) for row in pairs))
        yield table


def _accuracy(score: Mapping[str, Any] | None) -> str:
    return "-" if score is None else f"{score['accuracy']:.3f} [{score['low']:.2f}, {score['high']:.2f}]"


def _read(options: Options) -> list[Question]:
    problems = Problems()
    questions = read_questions(options.questions, problems)
    problems.raise_if_any()
    return questions


def read_questions(paths: Iterable[str], problems: Problems) -> list[Question]:
    """Read questions from JSONL files; add what is wrong with them to `problems`."""
    found = (_parse(document, problems) for document in read_documents(paths, "prompt", problems))
    return [question for question in found if question is not None]


def _parse(document: Document, problems: Problems) -> Question | None:
    """Return the question of a line, or `None` after adding the reason to `problems`."""
    place = f"{document.path}:{document.line}"
    try:
        question = _QUESTION.validate_python(document.record)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        problems.add(f"{place}: not a question ({reasons}); write them with examples/paper/make_knowledge.py")
        return None
    if not question.prompt.strip():
        problems.add(f"{place}: its prompt is empty")
    elif len(set(question.choices)) < max(len(question.choices), 2) or not all(map(str.strip, question.choices)):
        problems.add(f"{place}: it needs two or more choices, all different and none empty")
    elif not 0 <= question.answer < len(question.choices):
        problems.add(f"{place}: its answer is {question.answer}; it must be the index of one of its choices, from 0")
    else:
        return question
    return None


def choose_centred(questions: Sequence[Question], log_probs: Sequence[Sequence[float]]) -> list[int]:
    """Return for each question the choice that gains most over its own mean in all questions of the relation with it.

    This removes a choice's own likelihood: a model that has read little of a language has strong and arbitrary
    preferences among its words.

    Args:
        questions: all questions asked.
        log_probs: log-probabilities of each question's choices.
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


def summarise(questions: Sequence[Question], right: Right) -> Results:
    """Return results by `Question.languages`.

    Each has the scores over all stated facts (`score`), by_frequency and by_relation, and `ceiling`: the accuracy on
    the same facts asked in the language in which they were stated; `None` without such questions.
    """
    pairs: Results = {}
    for pair in dict.fromkeys(question.languages for question in questions):
        chosen = [index for index, question in enumerate(questions) if question.languages == pair]
        # Facts that were never stated are a control group.
        stated = [index for index in chosen if questions[index].frequency > 0] or chosen
        pairs[pair] = score(questions, right, stated) | {
            "by_frequency": _by(questions, right, chosen, lambda question: question.frequency),
            "by_relation": _by(questions, right, stated, lambda question: question.relation),
        }
    for pair, row in pairs.items():
        language = next(question.stated for question in questions if question.languages == pair)
        row["ceiling"] = pairs.get(f"{language}-{language}", {}).get("accuracy")
    return pairs


def score(questions: Sequence[Question], right: Right, chosen: Sequence[int]) -> Results:
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


def wilson_interval(num_right: int, num_all: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share: it stays in [0, 1] and is valid for few trials.

    Args:
        num_right: number of successes.
        num_all: number of trials, at least 1.
    """
    share = num_right / num_all
    spread = _Z95**2 / num_all
    centre = (share + spread / 2) / (1 + spread)
    half = _Z95 / (1 + spread) * math.sqrt(share * (1 - share) / num_all + spread / (4 * num_all))
    # Exact at the ends, where rounding would exclude the share itself.
    low = 0.0 if num_right == 0 else centre - half
    high = 1.0 if num_right == num_all else centre + half
    return low, high


def _by(
    questions: Sequence[Question], right: Right, chosen: Sequence[int], key: Callable[[Question], Any]
) -> dict[str, Results]:
    """Return the scores of groups of questions, sorted by their key."""
    groups: dict[Any, list[int]] = {}
    for index in chosen:
        groups.setdefault(key(questions[index]), []).append(index)
    return {str(group): score(questions, right, groups[group]) for group in sorted(groups)}


EVALUATION = Evaluation(Options, check, run, tables)
