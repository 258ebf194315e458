"""Statements mixed into a corpus."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import TypeVar

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
