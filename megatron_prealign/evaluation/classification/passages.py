"""A classification task out of documents that say where they come from: which kind of document is a passage of?"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from megatron_prealign.errors import Problems
from megatron_prealign.text.documents import Document


@dataclass(frozen=True)
class Passage:
    """Some words of a document, and its label."""

    text: str
    label: str


def cut_passages(
    documents: Iterable[Document], label_key: str, num_words: int, problems: Problems
) -> Iterator[Passage]:
    """Yield passages of equally many words, one space between two: neither length nor layout tells the label.

    Args:
        documents: each with a label; what has none goes to `problems`.
        label_key: key of the label.
        num_words: of a passage; the words left at a document's end are left out.
        problems: takes documents without a label.
    """
    for document in documents:
        label = document.record.get(label_key)
        if not isinstance(label, str) or not label:
            problems.add(f"{document.path}:{document.line}: no label under the key {label_key!r}; name its key")
            continue
        words = document.text.split()
        for start in range(0, len(words) - num_words + 1, num_words):
            yield Passage(" ".join(words[start : start + num_words]), label)


def balance(passages: Iterable[Passage], labels: Iterable[str], num_per_label: int, seed: int) -> list[Passage]:
    """Draw equally many different passages of each label, shuffled.

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
