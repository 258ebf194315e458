"""Labelled texts or pairs of texts, read from files or the Hugging Face hub, and checked as a transfer task."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_prealign.errors import DataError, Problems
from megatron_prealign.text.documents import Document, read_documents


@dataclass(frozen=True)
class Example:
    """A text, or a pair of texts, with its label."""

    text: str
    pair: str | None
    label: str
    place: str
    """File and line, for messages."""

    @property
    def content(self) -> tuple[str, ...]:
        """Return its texts with normalised spaces; equal ones are duplicates."""
        return tuple(" ".join(text.split()) for text in (self.text, self.pair) if text is not None)


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Keys of a line of JSON."""

    text: str = "text"
    pair: str | None = None
    label: str = "label"


@dataclass(frozen=True)
class TransferTask:
    """Examples to fine-tune on in one language, and to test on in several."""

    source: str
    train: list[Example]
    test: dict[str, list[Example]]

    @property
    def labels(self) -> list[str]:
        """Return the labels of the training data, sorted."""
        return sorted({example.label for example in self.train})


def read_examples(paths: Iterable[str], keys: Keys, problems: Problems) -> list[Example]:
    """Read examples from JSONL files; add what is wrong with them to `problems`."""
    found = (_parse(document, keys, problems) for document in read_documents(paths, keys.text, problems))
    return [example for example in found if example is not None]


def _parse(document: Document, keys: Keys, problems: Problems) -> Example | None:
    place = f"{document.path}:{document.line}"
    label = document.record.get(keys.label)
    pair = document.record.get(keys.pair) if keys.pair else None
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        problems.add(f"{place}: no label under the key {keys.label!r}; labels are text or whole numbers")
    elif keys.pair and not (isinstance(pair, str) and pair.strip()):
        problems.add(f"{place}: no second text under the key {keys.pair!r}")
    elif not document.text.strip():
        problems.add(f"{place}: its text is empty; remove the line")
    else:
        return Example(document.text, pair, str(label), place)
    return None


def read_task(source: str, train: Sequence[str], test: Mapping[str, Sequence[str]], keys: Keys) -> TransferTask:
    """Read a task.

    Raises:
        DataError: everything wrong with it.
    """
    problems = Problems()
    task = TransferTask(
        source,
        read_examples(train, keys, problems),
        {language: read_examples(paths, keys, problems) for language, paths in test.items()},
    )
    problems.raise_if_any()
    check_task(task)
    return task


def check_task(task: TransferTask) -> None:
    """Refuse a task with fewer than two labels, with test labels that training lacks, or with texts in both.

    Raises:
        DataError: everything wrong with it.
    """
    problems = Problems()
    if not task.test:
        problems.add("no test language is given; name at least one with its files")
    if task.source not in task.test:
        problems.add(
            f"no test in {task.source}, the language of training: add one, to compare the other languages with"
        )
    if len(task.labels) < 2:
        problems.add(
            f"the training data has {len(task.labels)} labels ({', '.join(task.labels)}); at least two are needed"
        )
    seen = {example.content: example.place for example in task.train}
    for language, examples in task.test.items():
        if not examples:
            problems.add(f"no example in {language}; leave the language out, or give files with text and labels")
        if unknown := sorted({example.label for example in examples} - set(task.labels)):
            problems.add(
                f"test in {language}: labels {', '.join(unknown)} do not occur in training, which has "
                f"{', '.join(task.labels)}; the labels must be the same in all languages"
            )
        for example in examples:
            if (place := seen.get(example.content)) is not None:
                problems.add(
                    f"{example.place}: the same text as {place} in the training data; remove it from one of them"
                )
    problems.raise_if_any()


@dataclass(frozen=True)
class HubTask:
    """A data set of the hub with one configuration per language."""

    repository: str
    text: str
    pair: str
    languages: tuple[str, ...]


HUB_TASKS = {
    "xnli": HubTask(
        "facebook/xnli",
        "premise",
        "hypothesis",
        ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"),
    ),
    "paws-x": HubTask(
        "google-research-datasets/paws-x", "sentence1", "sentence2", ("de", "en", "es", "fr", "ja", "ko", "zh")
    ),
}


def fetch_task(name: str, source: str, languages: Sequence[str]) -> TransferTask:
    """Fetch a task of `HUB_TASKS`: the training split of one language, the test splits of others.

    Raises:
        DataError: no such task or language, the datasets library is missing, or no hub can be reached.
    """
    if (task := HUB_TASKS.get(name)) is None:
        raise DataError(f"task {name}: no such task; known are {', '.join(HUB_TASKS)}")
    if unknown := [language for language in (source, *languages) if language not in task.languages]:
        raise DataError(f"task {name}: not available in {', '.join(unknown)}; choose from {', '.join(task.languages)}")
    train = to_examples(task, _load(name, task, source, "train"), f"{name} {source} train")
    test = {
        language: to_examples(task, _load(name, task, language, "test"), f"{name} {language} test")
        for language in dict.fromkeys((source, *languages))
    }
    known = {example.content for example in train}
    # PAWS-X repeats some pairs; they are removed from training, so that the published test stays whole.
    tested = {example.content for examples in test.values() for example in examples} & known
    found = TransferTask(source, [example for example in train if example.content not in tested], test)
    check_task(found)
    return found


def to_examples(task: HubTask, rows: Iterable[Mapping[str, Any]], place: str) -> list[Example]:
    """Return the rows of a split as examples."""
    return [
        Example(row[task.text], row[task.pair], str(row["label"]), f"{place} {number}")
        for number, row in enumerate(rows)
    ]


def _load(name: str, task: HubTask, language: str, split: str) -> Iterable[Mapping[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"task {name}: the datasets library is missing; pip install 'megatron-prealign[eval]'"
        ) from error
    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(task.repository, language, split=split)
    except Exception as error:
        # The network, the hub and its files raise many types.
        reason = " ".join(str(error).split())
        raise DataError(
            f"task {name}: {task.repository} can't be read ({reason}); without access to the hub, give files with "
            "train and test instead"
        ) from error
    return rows
