"""Input-only code-switching (PreAlign sec. 3.2) on token ids, without any I/O.

Every word that the lexicon covers is replaced by one of its translations with probability `ratio`, independently. All
draws are addressed by (seed, epoch, document, word), so the result for a document is independent of all others, and
equal in the bake and in a data loader that switches online.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.draws import Counter, document_keys, draw, stream_keys
from megatron_prealign.codeswitch.switch_table import SwitchTable
from megatron_prealign.codeswitch.word_forms import NUM_FORMS
from megatron_prealign.codeswitch.words import Words, find_eligible, find_letter_tokens, find_words, token_flags
from megatron_prealign.text.ragged import spread
from megatron_prealign.text.syllables import find_breaks


@dataclass
class SwitchCounts:
    """Counts of a code-switch; addable."""

    words: int = 0
    """Runs of letters; tokens of letters in languages without spaces between words."""
    covered: int = 0
    """Eligible words in the lexicon; an entry of several words counts as one."""
    switched: int = 0
    """Words replaced."""
    switched_tokens: int = 0
    """Tokens of the inserted translations."""
    replaced_tokens: int = 0
    """Tokens of the replaced words."""
    by_language: dict[str, int] = field(default_factory=dict)
    """Words replaced, by language of the translation."""

    def add(self, other: "SwitchCounts") -> None:
        """Add the counts of other documents."""
        for name in ("words", "covered", "switched", "switched_tokens", "replaced_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for language, count in other.by_language.items():
            self.by_language[language] = self.by_language.get(language, 0) + count


@dataclass(frozen=True)
class Switched:
    """Documents after the switch."""

    tokens: NDArray[Any]
    """Documents back to back: [T], of the type of the input."""
    offsets: NDArray[np.int64]
    """Where each document begins and ends: [D + 1]."""
    records: NDArray[np.int32]
    """(start relative to its document, length, label, lexicon entry), in order: [N, 4]."""
    record_counts: NDArray[np.int64]
    """Records of each document: [D]."""
    counts: SwitchCounts


@dataclass(frozen=True)
class Matches:
    """The words of some documents that may be switched, in order."""

    spans: Words
    """Their places: [N]. The index of a match is that of its first atom."""
    keys: NDArray[np.int64]
    """Source form of each: [N]."""
    num_atoms: int
    """Atoms of the documents, covered or not."""


def find_matches(table: SwitchTable, tokens: NDArray[Any], offsets: NDArray[np.int64]) -> Matches:
    """Return the words that may be switched: the longest match, from left to right.

    In languages with spaces a match is one word, or consecutive words with a space between them. In others it is a run
    of tokens: a word that does not end at a token boundary is not found. These words or tokens are called atoms.

    Args:
        table: The lexicon, compiled for the tokenizer of the ids.
        tokens: int [T], documents back to back.
        offsets: int64 [D + 1], where each document begins and ends.
    """
    flags = token_flags(table.vocabulary, tokens, offsets)
    if table.scanner is None:
        return _match_in_arrays(table, tokens, offsets, flags)
    ids, bounds = np.ascontiguousarray(tokens, dtype=np.int32), np.ascontiguousarray(offsets, dtype=np.int64)
    num_atoms, *spans, keys = table.scanner.scan(ids, flags, bounds)
    return Matches(Words(*spans), keys, num_atoms)


def codeswitch(
    tokens: NDArray[Any],
    offsets: NDArray[np.int64],
    table: SwitchTable,
    ratio: float,
    seed: int,
    epoch: int = 0,
    keys: NDArray[np.uint64] | None = None,
) -> Switched:
    """Switch words of documents; return them with their switch records.

    Args:
        tokens: int [T], documents back to back, including end-of-document tokens; never changed.
        offsets: int64 [D + 1], where each document begins and ends.
        table: The lexicon, compiled for the tokenizer of the ids.
        ratio: Probability in [0, 1] that a covered word is switched.
        seed: Any integer.
        epoch: 0 for a bake.
        keys: uint64 [D] of `document_keys`; None to compute them from `tokens`.
    """
    matches = find_matches(table, tokens, offsets)
    spans = matches.spans
    counts = SwitchCounts(words=matches.num_atoms, covered=len(spans))

    document_streams = stream_keys(seed, epoch, document_keys(tokens, offsets) if keys is None else keys)
    streams, indices = document_streams[spans.documents], spans.indices
    switched = np.flatnonzero(draw(streams, indices, Counter.SWITCH) < ratio)
    streams, indices, matched = streams[switched], indices[switched], matches.keys[switched]
    languages = table.by_language.choose(
        table.key_groups[matched].astype(np.int64), draw(streams, indices, Counter.LANGUAGE)
    )
    pairs = table.by_translation.choose(languages, draw(streams, indices, Counter.TRANSLATION))
    replacement, new_lengths = table.targets.take(pairs * NUM_FORMS + table.key_forms[matched])

    starts, documents = spans.starts[switched], spans.documents[switched]
    old_lengths = spans.stops[switched] - starts
    growth = np.cumsum(new_lengths - old_lengths)
    new_starts = starts + growth - (new_lengths - old_lengths)
    record_counts = np.bincount(documents, minlength=len(offsets) - 1)
    # Each document ends later by the growth of all words before its end.
    new_offsets = offsets + np.concatenate(([0], growth))[np.concatenate(([0], np.cumsum(record_counts)))]
    columns = (new_starts - new_offsets[documents], new_lengths, tokens[starts], table.key_entries[matched])
    records = np.stack(columns, axis=1).astype(np.int32)

    counts.switched, counts.switched_tokens = len(switched), int(new_lengths.sum())
    counts.replaced_tokens = int(old_lengths.sum())
    per_language = np.bincount(table.pair_languages[pairs], minlength=len(table.languages))
    counts.by_language = dict(zip(table.languages, per_language.tolist(), strict=True))
    switched_tokens = _splice(tokens, starts, old_lengths, replacement, new_starts, new_lengths)
    return Switched(switched_tokens, new_offsets, records, record_counts, counts)


def _splice(
    tokens: NDArray[Any],
    starts: NDArray[np.int64],
    old_lengths: NDArray[np.int64],
    replacement: NDArray[Any],
    new_starts: NDArray[np.int64],
    new_lengths: NDArray[np.int64],
) -> NDArray[Any]:
    """Return the tokens with the spans at `starts` removed and the replacements inserted at `new_starts`."""
    kept = np.ones(len(tokens), dtype=bool)
    kept[spread(starts, old_lengths)] = False
    result = np.empty(len(tokens) + len(replacement) - int(old_lengths.sum()), dtype=tokens.dtype)
    from_text = np.ones(len(result), dtype=bool)
    inserted = spread(new_starts, new_lengths)
    from_text[inserted] = False
    result[from_text] = tokens[kept]
    result[inserted] = replacement
    return result


def _match_in_arrays(
    table: SwitchTable, tokens: NDArray[Any], offsets: NDArray[np.int64], flags: NDArray[np.uint16]
) -> Matches:
    """Return the matches of tokens with the classes `flags`, uint16 [T]."""
    atoms = find_words(flags, offsets) if table.is_spaced else find_letter_tokens(flags, offsets)
    keys = table.find(tokens, atoms.starts, atoms.stops - atoms.starts)
    firsts = np.flatnonzero(keys >= 0)
    found = [(firsts, np.ones_like(firsts), keys[firsts]), *_find_phrases(table, tokens, atoms)]
    firsts, sizes, keys = (np.concatenate(parts) for parts in zip(*found, strict=True))
    spans = atoms.take(firsts, sizes)
    is_eligible = find_eligible(flags, offsets, spans, in_runs=not table.is_spaced)
    if not table.is_spaced and table.has_signs[tokens].any():
        breaks = find_breaks(table.vocabulary, tokens, offsets)
        is_eligible &= breaks[spans.starts] & breaks[spans.stops]
    firsts, sizes, keys = firsts[is_eligible], sizes[is_eligible], keys[is_eligible]
    kept = _longest_from_the_left(firsts, sizes, len(atoms))
    return Matches(atoms.take(firsts[kept], sizes[kept]), keys[kept], len(atoms))


def _find_phrases(
    table: SwitchTable, tokens: NDArray[Any], atoms: Words
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the lexicon's matches of 2 atoms, 3 atoms and so on: first atom, number of atoms, key; all int64."""
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
    """Return, in order, which matches remain if at each atom the longest is taken and removes those it overlaps.

    Args:
        firsts: int64 [N], first atom of each match; matches of one atom come first, in order.
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
