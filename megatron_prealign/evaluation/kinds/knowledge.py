"""Cross-lingual knowledge application: facts stated in one language, asked in another."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megatron_prealign.errors import Problems
from megatron_prealign.evaluation.frame import Evaluation, Paths, Progress, Results, problems_of
from megatron_prealign.evaluation.knowledge import Question, choose_centred, read_questions, summarise

if TYPE_CHECKING:
    from rich.table import Table

    from megatron_prealign.evaluation.folder import ModelFolder


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to ask."""

    questions: Paths
    """Files of questions, as examples/paper/make_knowledge.py writes them."""


def check(options: Options) -> list[str]:
    """Return what is wrong with the questions."""
    return problems_of(lambda: _read(options))


def run(folder: "ModelFolder", options: Options, progress: Progress) -> Results:
    """Return pairs: by "stated-asked" accuracies with intervals, chance and ceiling, as `summarise` gives them."""
    from megatron_prealign.evaluation.completions import score_completions

    questions = _read(options)
    scored = score_completions(folder, [(question.prompt, question.choices) for question in questions], progress)
    right = {
        name: [scores.best(normalised) == question.answer for question, scores in zip(questions, scored, strict=True)]
        for name, normalised in (("accuracy", False), ("accuracy_normalised", True))
    }
    centred = choose_centred(questions, [scores.log_probs for scores in scored])
    right["accuracy_centred"] = [chosen == question.answer for question, chosen in zip(questions, centred, strict=True)]
    return {"pairs": summarise(questions, right)}


def tables(name: str, results: Results) -> "Iterator[Table]":
    """Yield a table with a row a frequency for all pairs of languages, and one with a row a relation."""
    for key, title in (("by_frequency", "times stated"), ("by_relation", "relation")):
        yield _table(f"{name.capitalize()}, accuracy", title, key, results["pairs"])


def _table(name: str, title: str, key: str, pairs: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(title, *pairs, title=name)
    for group in dict.fromkeys(group for row in pairs.values() for group in row[key]):
        table.add_row(group, *(_cell(row[key].get(group)) for row in pairs.values()))
    table.add_row("stated, all", *map(_cell, pairs.values()))
    table.add_row("ceiling", *("-" if row["ceiling"] is None else f"{row['ceiling']:.3f}" for row in pairs.values()))
    table.add_row("chance", *(f"{row['chance']:.3f}" for row in pairs.values()))
    return table


def _cell(score: dict[str, Any] | None) -> str:
    return "-" if score is None else f"{score['accuracy']:.3f} [{score['low']:.2f}, {score['high']:.2f}]"


def _read(options: Options) -> list[Question]:
    """Read the questions.

    Raises:
        DataError: everything wrong with them.
    """
    problems = Problems()
    questions = read_questions(options.questions, problems)
    problems.raise_if_any()
    return questions


EVALUATION = Evaluation(Options, check, run, tables)
