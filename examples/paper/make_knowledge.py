r"""Make facts about fictional entities to mix into pretraining, and questions that ask for them in other languages.

    python examples/paper/make_knowledge.py --spec examples/paper/knowledge/spec.yaml --languages en clone \
        --stated-in en --mix-into en=corpus/english.jsonl --output knowledge

writes into the folder `knowledge`: facts.en.jsonl, the statements alone; mixed.en.jsonl, the corpus with the statements
in it; questions.jsonl, for the evaluation `knowledge` of tools/evaluate.py; design.json, all that they depend on.
The same arguments give the same files.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import DataError, Problems
from megatron_prealign.files import atomic_folder, output_problems
from megatron_prealign.lexicon import normalize_language
from megatron_prealign.text.documents import read_documents

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.paper.knowledge.facts import (
    Design,
    Fact,
    design_problems,
    make_facts,
    mix,
    num_kept_at_end,
    questions,
    statements,
)
from examples.paper.knowledge.spec import KnowledgeSpec, read_spec


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--spec", type=path_argument, required=True, help="YAML file with types, relations and their wording"
    )
    parser.add_argument("--output", type=path_argument, required=True, help="folder to make")
    parser.add_argument(
        "--languages",
        nargs="+",
        default=["en", "clone"],
        metavar="LANGUAGE",
        help="languages that questions are asked in",
    )
    parser.add_argument(
        "--stated-in",
        nargs="+",
        action="extend",
        metavar="LANGUAGE",
        help="languages of statements; a fact has one of them (default: the first of --languages)",
    )
    parser.add_argument(
        "--frequencies",
        nargs="+",
        type=int,
        default=[0, 1, 2, 4, 8, 16, 32, 64],
        metavar="N",
        help="how often facts are stated; those of 0 are only asked, which must give chance",
    )
    parser.add_argument("--facts", type=int, default=8, help="facts of each relation, language and frequency")
    parser.add_argument("--choices", type=int, default=4, help="answers to choose from; chance is 1 / CHOICES")
    parser.add_argument(
        "--original-answers",
        action="store_true",
        help="ask once more in each other language with the choices in the language of the statement: is the question "
        "understood where the answer can't be written?",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of entities, facts, wordings and places")
    parser.add_argument(
        "--mix-into",
        action="append",
        default=[],
        metavar="LANGUAGE=PATH",
        help="corpus that statements of a language are mixed into; a path more for a language adds to its corpus",
    )
    parser.add_argument("--json-key", default="text", help="key of the text in the corpora")
    parser.add_argument(
        "--tail-ratio",
        type=float,
        default=0.1,
        help="share of documents at the end of a mixed corpus that stays free of statements: a run validates "
        "on the last ones, and would never train on them (data.split)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    _run(arguments)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    """Check everything, then write all files at once."""
    languages = tuple(map(normalize_language, arguments.languages))
    design = Design(
        languages=languages,
        stated_in=tuple(map(normalize_language, arguments.stated_in or languages[:1])),
        frequencies=tuple(arguments.frequencies),
        facts_per_cell=arguments.facts,
        num_choices=arguments.choices,
        seed=arguments.seed,
    )
    spec, corpora = _check(arguments, design)
    facts = make_facts(spec, design)
    stated = {language: statements(spec, facts, language, design.seed) for language in design.stated_in}
    sizes = _count_documents(corpora, arguments.json_key, stated, arguments.tail_ratio)
    asked = list(map(asdict, questions(spec, facts, languages, design.seed, arguments.original_answers)))
    with atomic_folder(arguments.output, arguments.overwrite) as folder:
        for language, sentences in stated.items():
            _write(folder / f"facts.{language}.jsonl", sentences)
        for language, (num_documents, tail) in sizes.items():
            documents = _records(corpora[language], arguments.json_key)
            keyed = [{arguments.json_key: one["text"], "fact": one["fact"]} for one in stated[language]]
            _write(folder / f"mixed.{language}.jsonl", mix(documents, num_documents, keyed, tail, design.seed))
        _write(folder / "questions.jsonl", asked)
        content = {"spec": asdict(spec), "design": asdict(design)}
        (folder / "design.json").write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    _report(facts, stated, len(asked), sizes)


def _check(arguments: argparse.Namespace, design: Design) -> tuple[KnowledgeSpec, dict[str, list[str]]]:
    """Read the specification and where the corpora lie.

    Raises:
        DataError: everything wrong with the arguments.
    """
    problems = output_problems(arguments.output, arguments.overwrite)
    if not 0.0 <= arguments.tail_ratio < 1.0:
        problems.append(f"--tail-ratio is {arguments.tail_ratio}; give a number in [0, 1)")
    corpora: dict[str, list[str]] = {}
    for given in arguments.mix_into:
        language, separator, path = given.partition("=")
        if not (language and separator and path):
            problems.append(f"--mix-into {given}: write it as LANGUAGE=PATH, for example en=english.jsonl")
        elif normalize_language(language) not in design.stated_in:
            problems.append(f"--mix-into {given}: no fact is stated in {language}; name it in --stated-in")
        else:
            corpora.setdefault(normalize_language(language), []).append(path)
    try:
        spec = read_spec(arguments.spec)
    except DataError as error:
        raise DataError([*problems, *error.problems]) from None
    problems += design_problems(spec, design)
    if problems:
        raise DataError(problems)
    return spec, corpora


def _count_documents(
    corpora: dict[str, list[str]], json_key: str, stated: dict[str, list[dict[str, Any]]], tail_ratio: float
) -> dict[str, tuple[int, int]]:
    """Return for each corpus its documents, and how many of them stay at the end.

    Raises:
        DataError: every document that can't be read, and corpora with too few.
    """
    problems = Problems()
    sizes = {}
    for language, paths in corpora.items():
        num_documents = sum(1 for _ in read_documents(paths, json_key, problems))
        tail = num_kept_at_end(num_documents, len(stated[language]), tail_ratio)
        if num_documents < tail:
            problems.add(
                f"--mix-into {language}: {num_documents} documents are too few for {len(stated[language])} statements "
                f"if the last {tail} shall be free of them; give more text, or lower --tail-ratio or --facts"
            )
        sizes[language] = num_documents, tail
    problems.raise_if_any()
    return sizes


def _records(paths: list[str], json_key: str) -> Iterator[dict[str, Any]]:
    problems = Problems()
    for document in read_documents(paths, json_key, problems):
        yield document.record
    problems.raise_if_any()


def _write(path: Path, records: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _report(
    facts: list[Fact], stated: dict[str, list[dict[str, Any]]], num_questions: int, sizes: dict[str, tuple[int, int]]
) -> None:
    """Say on stderr what was made."""
    print(f"{len(facts)} facts, {num_questions} questions", file=sys.stderr)
    for language, sentences in stated.items():
        mixed = f" among {sizes[language][0]} documents" if language in sizes else ""
        print(f"{language}: {len(sentences)} statements{mixed}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
