"""Well-known tasks by name, from the Hugging Face hub."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.classification.labelled import Example, TransferTask, check_task


@dataclass(frozen=True)
class HubTask:
    """A data set with one configuration a language."""

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
        raise DataError(f"task {name}: there is none of this name; known are {', '.join(HUB_TASKS)}")
    if unknown := [language for language in (source, *languages) if language not in task.languages]:
        raise DataError(f"task {name}: not in {', '.join(unknown)}; it is in {', '.join(task.languages)}")
    train = to_examples(task, _load(name, task, source, "train"), f"{name} {source} train")
    test = {
        language: to_examples(task, _load(name, task, language, "test"), f"{name} {language} test")
        for language in dict.fromkeys((source, *languages))
    }
    known = {example.content for example in train}
    # PAWS-X repeats some pairs; a published test is scored as it is, the training goes without them.
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
        # Any error of the network, of the hub, or of the files there.
        reason = " ".join(str(error).split())
        raise DataError(
            f"task {name}: {task.repository} can't be read ({reason}); where no hub is reached, give files with "
            "train and test instead"
        ) from error
    return rows
