"""Which words of a text a lexicon covers: the longest match, from left to right.

Where words are spaced, a match is one word, or several that follow each other with a space between. Where they are not,
it is a run of tokens: a word that no token boundary ends is not found. Words and tokens are the atoms of matches.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.data.ragged import spread
from megatron_prealign.data.switch_table import SwitchTable
from megatron_prealign.data.words import Words, find_eligible, find_letter_tokens, find_words, token_flags


@dataclass(frozen=True)
class Matches:
    """The words of some documents that may be switched, in order."""

    spans: Words
    """Where they are: [N]. The index of a match is that of its first atom."""
    keys: NDArray[np.int64]
    """Source form of each: [N]."""
    num_atoms: int
    """Words of the documents, covered or not; letter tokens where words are not spaced."""


@dataclass(frozen=True)
class _Phrases:
    """Matches of several atoms."""

    firsts: NDArray[np.int64]
    """Number of the first atom of each: [P], rising."""
    sizes: NDArray[np.int64]
    """Atoms of each: [P]."""
    keys: NDArray[np.int64]
    """Source form of each: [P]."""


def find_matches(table: SwitchTable, tokens: NDArray[Any], offsets: NDArray[np.int64]) -> Matches:
    """Return the words that may be switched.

    Args:
        table: The lexicon, compiled for the tokenizer of the ids.
        tokens: int [T], documents back to back.
        offsets: int64 [D + 1], where each document begins and ends.
    """
    flags = token_flags(table.vocabulary, tokens, offsets)
    atoms = find_words(flags, offsets) if table.is_spaced else find_letter_tokens(flags, offsets)
    found = table.find(tokens, atoms.starts, atoms.stops - atoms.starts)
    numbers = np.flatnonzero(found >= 0)
    numbers = numbers[find_eligible(flags, offsets, atoms.take(numbers), in_runs=not table.is_spaced)]
    keys, sizes = found[numbers], np.ones(len(numbers), dtype=np.int64)
    if len(table.phrases.sizes):
        phrases = _find_phrases(table, tokens, flags, offsets, atoms)
        is_inside = np.zeros(len(atoms), dtype=bool)
        is_inside[spread(phrases.firsts, phrases.sizes)] = True
        is_free = ~is_inside[numbers]
        numbers = np.concatenate((numbers[is_free], phrases.firsts))
        order = np.argsort(numbers)
        numbers = numbers[order]
        keys = np.concatenate((keys[is_free], phrases.keys))[order]
        sizes = np.concatenate((sizes[is_free], phrases.sizes))[order]
    return Matches(atoms.take(numbers, sizes), keys, len(atoms))


def _find_phrases(
    table: SwitchTable, tokens: NDArray[Any], flags: NDArray[np.uint16], offsets: NDArray[np.int64], atoms: Words
) -> _Phrases:
    """Return the matches of several atoms: at each atom the longest, then from left to right what does not overlap."""
    follows = (atoms.starts[1:] == atoms.stops[:-1]) & (atoms.documents[1:] == atoms.documents[:-1])
    runs = np.concatenate(([0], np.cumsum(~follows)))  # atoms that follow each other are of one run
    begins = follows & table.phrases.may_begin(tokens[atoms.starts[:-1]], tokens[atoms.starts[1:]])
    firsts = np.flatnonzero(begins)
    sizes, keys = np.zeros_like(firsts), np.full_like(firsts, -1)
    for size in table.phrases.sizes.tolist():
        pending = np.flatnonzero((keys < 0) & (firsts + size <= len(atoms)))
        pending = pending[runs[firsts[pending]] == runs[firsts[pending] + size - 1]]
        spans = atoms.take(firsts[pending], size)
        found = table.find(tokens, spans.starts, spans.stops - spans.starts)
        pending, found, spans = pending[found >= 0], found[found >= 0], spans.take(np.flatnonzero(found >= 0))
        is_eligible = find_eligible(flags, offsets, spans, in_runs=not table.is_spaced)
        sizes[pending[is_eligible]], keys[pending[is_eligible]] = size, found[is_eligible]
    kept = _leftmost(firsts, sizes)
    return _Phrases(firsts[kept], sizes[kept], keys[kept])


def _leftmost(firsts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which spans of a size above 0 stay if each that overlaps one before it goes."""
    kept, free = [], 0
    for number in np.flatnonzero(sizes).tolist():
        if firsts[number] >= free:
            kept.append(number)
            free = firsts[number] + sizes[number]
    return np.array(kept, dtype=np.int64)
