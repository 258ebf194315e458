"""Which words of a text a lexicon covers: the longest match, from left to right.

Where words are spaced, a match is one word, or several that follow each other with a space between. Where they are not,
it is a run of tokens: a word that no token boundary ends is not found. Words and tokens are the atoms of matches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.switch_table import SwitchTable
from megatron_prealign.codeswitch.words import Words, find_eligible, find_letter_tokens, find_words, token_flags
from megatron_prealign.text.ragged import spread


@dataclass(frozen=True)
class Matches:
    """The words of some documents that may be switched, in order."""

    spans: Words
    """Where they are: [N]. The index of a match is that of its first atom."""
    keys: NDArray[np.int64]
    """Source form of each: [N]."""
    num_atoms: int
    """Words of the documents, covered or not; letter tokens where words are not spaced."""


def find_matches(table: SwitchTable, tokens: NDArray[Any], offsets: NDArray[np.int64]) -> Matches:
    """Return the words that may be switched.

    Args:
        table: The lexicon, compiled for the tokenizer of the ids.
        tokens: int [T], documents back to back.
        offsets: int64 [D + 1], where each document begins and ends.
    """
    flags = token_flags(table.vocabulary, tokens, offsets)
    atoms = find_words(flags, offsets) if table.is_spaced else find_letter_tokens(flags, offsets)
    keys = table.find(tokens, atoms.starts, atoms.stops - atoms.starts)
    firsts = np.flatnonzero(keys >= 0)
    found = [(firsts, np.ones_like(firsts), keys[firsts]), *_find_phrases(table, tokens, atoms)]
    firsts, sizes, keys = (np.concatenate(parts) for parts in zip(*found, strict=True))
    is_eligible = find_eligible(flags, offsets, atoms.take(firsts, sizes), in_runs=not table.is_spaced)
    firsts, sizes, keys = firsts[is_eligible], sizes[is_eligible], keys[is_eligible]
    kept = _longest_from_the_left(firsts, sizes, len(atoms))
    return Matches(atoms.take(firsts[kept], sizes[kept]), keys[kept], len(atoms))


def _find_phrases(
    table: SwitchTable, tokens: NDArray[Any], atoms: Words
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield what the lexicon has of 2 atoms, of 3 and so on: first atom, number of atoms, key; int64 all."""
    if not len(table.phrases.sizes):
        return
    heads = tokens[atoms.starts]
    follows = (atoms.starts[1:] == atoms.stops[:-1]) & (atoms.documents[1:] == atoms.documents[:-1])
    firsts = np.flatnonzero(follows & table.phrases.may_begin(heads[:-1], heads[1:]))
    for size in range(2, int(table.phrases.sizes[-1]) + 1):
        firsts = firsts[firsts + size <= len(atoms)]
        firsts = firsts[follows[firsts + size - 2]]
        if size in table.phrases.sizes:
            spans = atoms.take(firsts, size)
            keys = table.find(tokens, spans.starts, spans.stops - spans.starts)
            is_found = keys >= 0
            yield firsts[is_found], np.full(int(is_found.sum()), size), keys[is_found]


def _longest_from_the_left(firsts: NDArray[np.int64], sizes: NDArray[np.int64], num_atoms: int) -> NDArray[np.int64]:
    """Return, in order, which matches stay if at each atom the longest is taken and what it overlaps goes.

    Args:
        firsts: int64 [N], first atom of each match; those of one atom stand in front, in order.
        sizes: int64 [N], atoms of each.
        num_atoms: Atoms of the text.
    """
    longer = np.flatnonzero(sizes > 1)
    if not len(longer):
        return np.arange(len(firsts))
    kept, free = [], 0
    for number in longer[np.lexsort((-sizes[longer], firsts[longer]))].tolist():
        if firsts[number] >= free:
            kept.append(number)
            free = firsts[number] + sizes[number]
    phrases = np.array(kept)
    is_inside = np.zeros(num_atoms, dtype=bool)
    is_inside[spread(firsts[phrases], sizes[phrases])] = True
    words = np.arange(len(firsts) - len(longer))
    both = np.concatenate((words[~is_inside[firsts[words]]], phrases))
    in_order: NDArray[np.int64] = both[np.argsort(firsts[both], kind="stable")]
    return in_order
