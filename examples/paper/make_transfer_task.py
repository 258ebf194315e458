r"""Make a classification task for zero-shot transfer out of text that says where it comes from.

    python examples/paper/make_transfer_task.py --train corpus/english.jsonl --test corpus/valid.jsonl \
        --label-key section --clone --output task

writes into the folder `task`: train.en.jsonl and test.en.jsonl, passages of equally many words with the label of their
document, equally many of each label, none in both; and test.clone.jsonl, the English test in English-Clone. The same
arguments give the same files.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import DataError, Problems
from megatron_prealign.files import atomic_folder, output_problems
from megatron_prealign.text.documents import Document, read_documents

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.paper.clone import CLONE_LANGUAGE
from examples.paper.clone_characters import clone_text, find_clone_character


@dataclass(frozen=True)
class Passage:
    """Some words of a document, and its label."""

    text: str
    label: str


def cut_passages(
    documents: Iterable[Document], label_key: str, num_words: int, problems: Problems
) -> Iterator[Passage]:
    """Yield passages of a fixed number of words, separated by one space, so that layout does not reveal the label.

    Args:
        documents: labelled documents.
        label_key: key of the label.
        num_words: words of a passage; remaining words of a document are dropped.
        problems: documents without a label are added.
    """
    for document in documents:
        label = document.record.get(label_key)
        if not isinstance(label, str) or not label:
            problems.add(
                f"{document.path}:{document.line}: no label under the key {label_key!r}; give the right --label-key"
            )
            continue
        words = document.text.split()
        for start in range(0, len(words) - num_words + 1, num_words):
            yield Passage(" ".join(words[start : start + num_words]), label)


def balance(passages: Iterable[Passage], labels: Iterable[str], num_per_label: int, seed: int) -> list[Passage]:
    """Draw an equal number of different passages of each label, shuffled.

    Args:
        passages: `count_labels` says how many of a label there are, which must be enough.
        labels: to draw for.
        num_per_label: how many.
        seed: of the draw, which depends on the texts, not on their order.
    """
    by_label: dict[str, set[str]] = {label: set() for label in labels}
    for passage in passages:
        if passage.label in by_label:
            by_label[passage.label].add(passage.text)
    drawn = [
        Passage(text, label)
        for label, texts in by_label.items()
        for text in Random(f"{seed} {label}").sample(sorted(texts), num_per_label)
    ]
    Random(f"{seed} order").shuffle(drawn)
    return drawn


def count_labels(passages: Iterable[Passage]) -> dict[str, int]:
    """Return the number of different passages of each label, sorted by label."""
    texts: dict[str, set[str]] = {}
    for passage in passages:
        texts.setdefault(passage.label, set()).add(passage.text)
    return {label: len(texts[label]) for label in sorted(texts)}


def without(passages: Iterable[Passage], others: Iterable[Passage]) -> list[Passage]:
    """Return the passages whose text is not among others', and which have one label only."""
    labels: dict[str, set[str]] = {}
    kept = list(passages)
    for passage in kept:
        labels.setdefault(passage.text, set()).add(passage.label)
    excluded = {passage.text for passage in others}
    return [passage for passage in kept if passage.text not in excluded and len(labels[passage.text]) == 1]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    for name, what in (("--train", "fine-tuning"), ("--test", "the test, others than those of --train")):
        parser.add_argument(
            name, nargs="+", action="extend", required=True, metavar="PATH", help=f"JSONL documents for {what}"
        )
    parser.add_argument("--json-key", default="text", help="key of the text")
    parser.add_argument("--label-key", default="section", help="key of the label")
    parser.add_argument(
        "--labels", nargs="+", action="extend", metavar="LABEL", help="labels to use; all with enough text if not given"
    )
    parser.add_argument("--words", type=int, default=40, help="words of a passage")
    parser.add_argument("--train-per-label", type=int, default=300, help="passages of each label to train on")
    parser.add_argument("--test-per-label", type=int, default=50, help="passages of each label to test on")
    parser.add_argument("--language", default="en", help="language of the text, for the files' names")
    parser.add_argument("--clone", action="store_true", help="write the test in English-Clone, too")
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw of passages")
    parser.add_argument("--output", type=path_argument, required=True, help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    _run(arguments)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    """Read all text, then write all files at once.

    Raises:
        DataError: everything wrong with arguments and text.
    """
    problems = Problems()
    for problem in output_problems(arguments.output, arguments.overwrite):
        problems.add(problem)
    for name in ("words", "train_per_label", "test_per_label"):
        if (value := getattr(arguments, name)) < 1:
            problems.add(f"--{name.replace('_', '-')} is {value}: it must be at least 1")
    problems.raise_if_any()
    test = without(_read(arguments, arguments.test, problems), [])
    train = without(_read(arguments, arguments.train, problems), test)
    problems.raise_if_any()
    labels = _choose_labels(arguments, count_labels(train), count_labels(test))
    parts = {
        f"train.{arguments.language}": balance(train, labels, arguments.train_per_label, arguments.seed),
        f"test.{arguments.language}": balance(test, labels, arguments.test_per_label, arguments.seed),
    }
    if arguments.clone:
        parts[f"test.{CLONE_LANGUAGE}"] = _clone(parts[f"test.{arguments.language}"])
    with atomic_folder(arguments.output, arguments.overwrite) as folder:
        for name, passages in parts.items():
            lines = (json.dumps(vars(passage), ensure_ascii=False) + "\n" for passage in passages)
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    told = ", ".join(f"{len(passages)} in {name}" for name, passages in parts.items())
    print(f"labels {', '.join(labels)}; passages: {told}", file=sys.stderr)


def _read(arguments: argparse.Namespace, paths: Sequence[str], problems: Problems) -> list[Passage]:
    documents = read_documents(paths, arguments.json_key, problems)
    return list(cut_passages(documents, arguments.label_key, arguments.words, problems))


def _choose_labels(arguments: argparse.Namespace, train: dict[str, int], test: dict[str, int]) -> list[str]:
    """Return the labels that have enough passages.

    Raises:
        DataError: fewer than two have, or a requested one has not.
    """

    def suffices(label: str) -> bool:
        enough = train.get(label, 0) >= arguments.train_per_label and test.get(label, 0) >= arguments.test_per_label
        return bool(enough)

    known: list[str] = sorted({*train, *test})
    chosen = arguments.labels or list(filter(suffices, known))
    if len(chosen) < 2 or not all(map(suffices, chosen)):
        counts = "; ".join(
            f"{label} {train.get(label, 0)} and {test.get(label, 0)}" for label in sorted({*known, *chosen})
        )
        raise DataError(
            f"two labels or more need {arguments.train_per_label} passages of {arguments.words} words to train on and "
            f"{arguments.test_per_label} to test on; found: {counts}. Lower --train-per-label, --test-per-label or "
            "--words, or give more text"
        )
    return sorted(set(chosen))


def _clone(passages: list[Passage]) -> list[Passage]:
    """Return passages in English-Clone.

    Raises:
        DataError: some hold clone characters.
    """
    problems = Problems()
    for passage in passages:
        if found := find_clone_character(passage.text):
            problems.add(f"{passage.text[:40]!r}... holds {found!r}, which English-Clone uses itself; leave it out")
    problems.raise_if_any()
    return [Passage(clone_text(passage.text), passage.label) for passage in passages]


if __name__ == "__main__":
    raise SystemExit(main())
