"""Batches of items to align: the items, their groups, and what must not be a negative, packed into rows.

An item is a run of tokens that the model reads alone; items of one group are translations of each other. Words and
sentences are items.

Legend: ``I`` items of a global microbatch, ``G`` groups of it, ``R`` rows of packed items, ``S`` positions of a row.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.draws import stream_keys
from megatron_prealign.text.ragged import Ragged, spread

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
PADDING = -1


@dataclass(frozen=True, eq=False)
class PackedItems:
    """Items one after another in rows of equal length; attention must not cross from one item into another."""

    token_ids: Ints
    """int64 [R, S], 0 at positions without an item"""
    item_index: Ints
    """int64 [R, S], which item a position belongs to, -1 where none"""
    position_ids: Ints
    """int64 [R, S], position within the item"""

    def padded(self, num_rows: int) -> "PackedItems":
        """Return the same with empty rows after it, `num_rows` altogether."""
        rows = ((0, num_rows - len(self.token_ids)), (0, 0))
        return PackedItems(
            np.pad(self.token_ids, rows),
            np.pad(self.item_index, rows, constant_values=-1),
            np.pad(self.position_ids, rows),
        )


@dataclass(frozen=True, eq=False)
class ItemBatch:
    """One microbatch: the items of a data-parallel rank, and properties of the items of all ranks."""

    packed: PackedItems
    """This rank's items; item_index counts from `start`"""
    start: int
    """This rank's first item in the global microbatch."""
    stop: int
    """One past this rank's last item."""
    group_ids: Ints
    """int64 [I], equal for an item and its translations; -1 for padding items, which are last"""
    item_ids: Ints
    """int64 [I], number of the item in its table; -1 for padding items"""
    excluded_pairs: Ints
    """int64 [E, 2], ordered (i, k) and (k, i): of different groups, but of possibly equal meaning, so no negatives"""
    num_tokens: int
    """Tokens of all items of the global microbatch, padding left out."""

    @property
    def num_items(self) -> int:
        """Items of the global microbatch, padding left out."""
        return int((self.item_ids != PADDING).sum())


class ItemBatches(ABC):
    """Microbatches addressed by a counter: microbatch m is a function of (items, seed, m).

    An epoch contains every group once, in its own order. A microbatch may extend from one epoch into the next, so all
    are full.
    """

    kind: ClassVar[str]
    """Name of the items in options, counters and metrics."""
    option: ClassVar[str]
    """The option with the files of the items."""

    def __init__(
        self,
        tokens: Ragged,
        num_groups: int,
        max_items: int,
        *,
        seed: int,
        batch_size: int,
        row_length: int,
    ) -> None:
        """Set the shape of the microbatches.

        Args:
            tokens: token ids of each item.
            num_groups: groups of an epoch, at least `batch_size`.
            max_items: most items of a group, including those added to it.
            seed: seed of the order of groups and of the draws from them.
            batch_size: groups of one global microbatch.
            row_length: positions of a row of packed items, at least the longest item.
        """
        self._tokens = tokens
        self._num_groups = num_groups
        self._seed = seed
        self._batch_size = batch_size
        self._max_items = max_items
        self._row_length = row_length
        self._order = lru_cache(maxsize=2)(self._shuffle)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of what the order of groups depends on, SHA-256."""

    @property
    @abstractmethod
    def mean_tokens(self) -> float:
        """Expected tokens of a microbatch, over whole epochs."""

    @abstractmethod
    def describe(self) -> str:
        """Return in one line what to know before training on the items."""

    @abstractmethod
    def _items(self, groups: Ints, keys: Keys) -> tuple[Ints, Ints]:
        """Return the items of a microbatch and their group ids, both int64 [I].

        Args:
            groups: int64 [G], the drawn groups; one that ends an epoch and begins the next occurs twice.
            keys: uint64 [G], a generator key for each.
        """

    @abstractmethod
    def _excluded_pairs(self, item_ids: Ints, group_ids: Ints) -> Ints:
        """Return ordered pairs of items of different groups that may mean the same, int64 [E, 2], sorted."""

    def batches(
        self, first: int, count: int, *, rank: int = 0, size: int = 1, few_shapes: bool = False
    ) -> list[ItemBatch]:
        """Return consecutive microbatches with equal numbers of rows: the schedule needs equal shapes.

        The ranks of the data-parallel axis may have other numbers of rows; they exchange only item vectors.

        Args:
            first: counter of the first microbatch since the start of training, over all epochs.
            count: microbatches.
            rank: this rank on the data-parallel axis.
            size: size of the data-parallel axis; the number of items is padded to a multiple of it.
            few_shapes: round the number of rows up, so that most steps have equal ones: a GPU's allocator and compiled
                kernels keep something for each.
        """
        found = [self._batch(index, rank, size) for index in range(first, first + count)]
        # If groups lack languages, the last ranks may have only padding; the model still needs a row.
        num_rows = max(1, *(len(batch.packed.token_ids) for batch in found))
        if few_shapes:
            num_rows = round_up(num_rows)
        return [replace(batch, packed=batch.packed.padded(num_rows)) for batch in found]

    def batch(self, index: int, *, rank: int = 0, size: int = 1) -> ItemBatch:
        """Return one microbatch."""
        return self.batches(index, 1, rank=rank, size=size)[0]

    def _batch(self, index: int, rank: int, size: int) -> ItemBatch:
        item_ids, group_ids = self._items(*self._groups(index))
        # Groups differ in the languages they have, and ranks hold equal numbers of items.
        num_items = -(-self._batch_size * self._max_items // size) * size
        padding = (0, num_items - len(item_ids))
        excluded_pairs = self._excluded_pairs(item_ids, group_ids)
        start, stop = rank * num_items // size, (rank + 1) * num_items // size
        token_ids, lengths = self._tokens.take(item_ids[start:stop])
        return ItemBatch(
            packed=pack_items(lengths, token_ids, self._row_length),
            start=start,
            stop=stop,
            group_ids=np.pad(group_ids, padding, constant_values=PADDING),
            item_ids=np.pad(item_ids, padding, constant_values=PADDING),
            excluded_pairs=excluded_pairs,
            num_tokens=int(self._tokens.lengths_of(item_ids).sum()),
        )

    def _groups(self, index: int) -> tuple[Ints, Keys]:
        """Return the groups of a microbatch, int64 [G], and a generator key for each."""
        positions = index * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        epochs, ranks = np.divmod(positions, self._num_groups)
        parts = [(epoch, self._order(epoch)[ranks[epochs == epoch]]) for epoch in np.unique(epochs).tolist()]
        keys = np.concatenate([self._keys(epoch, part) for epoch, part in parts])
        return np.concatenate([part for _, part in parts]), keys

    def _shuffle(self, epoch: int) -> Ints:
        """Return the order of groups in an epoch, int64 [groups]."""
        return np.argsort(self._keys(epoch, np.arange(self._num_groups)))

    def _keys(self, epoch: int, groups: Ints) -> Keys:
        """Return a generator key for each group, distinct within an epoch: uint64 [len(groups)]."""
        return stream_keys(self._seed, epoch, groups.astype(np.uint64))


def round_up(size: int) -> int:
    """Return one of the few sizes, eight from each power of two to the next, that is at most an eighth larger."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


def place_items(lengths: Ints, row_length: int) -> tuple[Ints, Ints, int]:
    """Return row and first column of each item, both int64 [I], and the number of rows; longest items first.

    Items of one length are interchangeable, so a filling is found once and repeated as often as possible: the cost
    grows with the number of lengths, not of items.

    Args:
        lengths: int64 [I], each from 1 to `row_length`.
        row_length: positions of a row.
    """
    order = np.argsort(-lengths, kind="stable")
    left = np.bincount(lengths, minlength=1)
    # Items of a length are consecutive in `order`; the next unplaced one of each length.
    following = len(lengths) - np.cumsum(left)
    rows, columns = np.empty_like(lengths), np.empty_like(lengths)
    num_rows = 0
    while left.any():
        filling = _fill_row(left, row_length)
        repeats = min(int(left[length]) // count for length, count in filling)
        column = 0
        for length, count in filling:
            chosen = order[following[length] : following[length] + repeats * count]
            rows[chosen] = num_rows + np.repeat(np.arange(repeats), count)
            columns[chosen] = column + np.tile(np.arange(count) * length, repeats)
            column += count * length
            following[length] += repeats * count
            left[length] -= repeats * count
        num_rows += repeats
    return rows, columns, num_rows


def _fill_row(left: Ints, row_length: int) -> list[tuple[int, int]]:
    """Fill one row, longest items first: (length, how many) of the items in it."""
    filling, room = [], row_length
    for length in np.flatnonzero(left)[::-1].tolist():
        count = min(int(left[length]), room // length)
        if count:
            filling.append((length, count))
            room -= count * length
    return filling


def pack_items(lengths: Ints, token_ids: Ints, row_length: int) -> PackedItems:
    """Pack items into rows, longest first.

    Args:
        lengths: int64 [I], each from 1 to `row_length`.
        token_ids: integers, the tokens of all items, one item after another.
        row_length: positions of a row.
    """
    rows, columns, num_rows = place_items(lengths, row_length)
    within = spread(np.zeros_like(lengths), lengths)
    where = np.repeat(rows, lengths), np.repeat(columns, lengths) + within
    packed = PackedItems(
        token_ids=np.zeros((num_rows, row_length), dtype=np.int64),
        item_index=np.full((num_rows, row_length), -1, dtype=np.int64),
        position_ids=np.zeros((num_rows, row_length), dtype=np.int64),
    )
    packed.token_ids[where] = token_ids
    packed.item_index[where] = np.repeat(np.arange(len(lengths)), lengths)
    packed.position_ids[where] = within
    return packed


def matches(queries: Ints, keys: Ints) -> tuple[Ints, Ints]:
    """Return all (q, k) with queries[q] == keys[k], without comparing each with each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.searchsorted(ordered, queries, side="left")
    counts = np.searchsorted(ordered, queries, side="right") - starts
    return np.repeat(np.arange(len(queries)), counts), order[spread(starts, counts)]


def number_equals(texts: Sequence[str]) -> Ints:
    """Return a number for each text, equal for equal texts: int64 [len(texts)]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)


def mean_by_language(languages: Sequence[str], lengths: Ints) -> dict[str, float]:
    """Return the mean length of each language's items, in order of first appearance."""
    names = np.array(languages)
    return {name: float(lengths[names == name].mean()) for name in dict.fromkeys(languages)}
