"""Words of a text, found on token ids alone: whole-array operations on classes of the vocabulary.

A word is a maximal run of tokens that spell letters, including one space before it. It is eligible for a switch if
its surroundings are those of words in prose: white space, brackets, quotes and sentence punctuation, but no digit,
hyphen, slash or dot before a letter, and no sign of URLs, e-mail addresses or code up to the next white space. The
same rule serves every tokenizer.

Legend: `V` vocabulary, `T` tokens of some documents back to back, `D` documents, `W` words.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.draws import mix
from megatron_prealign.codeswitch.token_classes import Token, Vocabulary

_WORD = Token.SPACED | Token.LETTERS
_JOINED_LETTERS = np.uint16(Token.LETTERS | Token.STARTS_STICKY | Token.ENDS_STICKY)
# Bytes of a character after its first.
_MOST_INNER = 3


@dataclass(frozen=True)
class Words:
    """The words of some documents, in order."""

    starts: NDArray[np.int64]
    """Index of the first token, including the space before: [W]."""
    stops: NDArray[np.int64]
    """Index after the last token: [W]."""
    documents: NDArray[np.int64]
    """Its document: [W]."""
    indices: NDArray[np.int64]
    """Index among all words of its document, eligible or not: [W]."""

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, numbers: NDArray[np.int64], sizes: NDArray[np.int64] | int = 1) -> "Words":
        """Return spans of `sizes` consecutive words, each beginning with one of `numbers`."""
        return Words(
            self.starts[numbers], self.stops[numbers + sizes - 1], self.documents[numbers], self.indices[numbers]
        )


def token_flags(vocabulary: Vocabulary, tokens: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Return the classes of the tokens of a text: uint16 [T]; inner bytes become like what they continue.

    Args:
        vocabulary: The classes of all tokens.
        tokens: int [T], documents back to back.
        offsets: int64 [D + 1], where each document begins and ends.
    """
    flags: NDArray[np.uint16] = np.take(vocabulary.flags, tokens)  # twice as fast as indexing
    inner = np.flatnonzero(_has(flags, Token.CONTINUATION))
    marks = np.flatnonzero(_has(flags, Token.INNER)) if len(vocabulary.inner_marks) else inner[:0]
    if not len(inner) + len(marks):
        return flags
    is_first = np.zeros(len(tokens) + 1, dtype=bool)
    is_first[_document_starts(offsets, len(tokens))] = True
    is_first[-1] = True
    if len(inner):
        _fill_characters(vocabulary, tokens, flags, inner, is_first)
        marks = np.flatnonzero(_has(flags, Token.INNER)) if len(vocabulary.inner_marks) else marks
    if len(marks):
        _join_marks(flags, marks, is_first)
    return flags


def _fill_characters(
    vocabulary: Vocabulary,
    tokens: NDArray[Any],
    flags: NDArray[np.uint16],
    inner: NDArray[np.int64],
    is_first: NDArray[np.bool_],
) -> None:
    """Give tokens of inner bytes the classes of what they continue: letters if that is a word.

    Args:
        vocabulary: The classes of all tokens.
        tokens: int [T].
        flags: uint16 [T], changed.
        inner: int64 [N], the tokens that are inner bytes only.
        is_first: bool [T + 1], where documents begin, and at the end.
    """
    # A run of inner bytes continues the token before it within its document.
    begins = np.diff(inner, prepend=-2) != 1
    begins |= is_first[inner]
    runs = np.flatnonzero(begins)
    counts = np.diff(runs, append=len(inner))
    before = inner[runs] - 1
    continues = ~is_first[inner[runs]]
    values = np.where(continues & _has(flags[before], _WORD), _JOINED_LETTERS, np.uint16(0))
    flags[inner] = np.repeat(values, counts)
    is_open = continues & _has(flags[before], Token.UNSURE)
    if is_open.any():
        counts = np.minimum(counts[is_open], _MOST_INNER)
        _classify_whole(vocabulary, tokens, flags, before[is_open], counts, is_first)


def _classify_whole(
    vocabulary: Vocabulary,
    tokens: NDArray[Any],
    flags: NDArray[np.uint16],
    leads: NDArray[np.int64],
    counts: NDArray[np.int64],
    is_first: NDArray[np.bool_],
) -> None:
    """Give characters in several tokens, whose first bytes leave open what they are, the classes of all their bytes.

    Args:
        vocabulary: The classes of all tokens.
        tokens: int [T].
        flags: uint16 [T], changed.
        leads: int64 [N], the token in which each begins.
        counts: int64 [N], the tokens behind it that continue the character.
        is_first: bool [T + 1], where documents begin, and at the end.
    """
    places = leads[:, None] + np.arange(_MOST_INNER + 1)
    lasts = leads + counts
    is_inside = places <= lasts[:, None]
    rows = np.where(is_inside, tokens[np.minimum(places, len(tokens) - 1)].astype(np.int64), -1)
    distinct, numbers = np.unique(rows, axis=0, return_inverse=True)
    classes = [vocabulary.classify_joined([token for token in row if token >= 0]) for row in distinct.tolist()]
    exact = np.array(classes, dtype=np.uint16)[numbers.ravel()]
    is_inner = is_inside & (places > leads[:, None])
    flags[leads] = exact
    behind = np.where(_has(exact, _WORD), _JOINED_LETTERS, exact & ~np.uint16(Token.LONE_SPACE))
    flags[places[is_inner]] = np.repeat(behind, counts)
    # A mark inside a word looks at the tokens beside it, and a quote at the one beyond: past the rest of itself.
    is_mark, is_quote = _has(exact, Token.INNER), _has(exact, Token.OPENS_OUTSIDE | Token.CLOSES_OUTSIDE)
    follows, precedes = is_quote & ~is_first[leads], is_quote & ~is_first[lasts + 1]
    follows[follows] = _has(flags[leads[follows] - 1], Token.ENDS_STICKY)
    precedes[precedes] = _has(flags[lasts[precedes] + 1], Token.STARTS_STICKY)
    is_outer = is_inside & (places < lasts[:, None])
    flags[places[is_outer & (follows | is_mark)[:, None]]] |= np.uint16(Token.ENDS_STICKY)
    flags[places[is_inner & (precedes | is_mark)[:, None]]] |= np.uint16(Token.STARTS_STICKY)


def _join_marks(flags: NDArray[np.uint16], marks: NDArray[np.int64], is_first: NDArray[np.bool_]) -> None:
    """Make the tokens at `marks`, int64 [N], letters where letters are on both sides of their marks."""
    before, after = flags[marks - 1], flags[np.minimum(marks + 1, len(flags) - 1)]
    follows = _has(before, _WORD | Token.INNER) & _has(before, Token.ENDS_STICKY) & ~is_first[marks]
    precedes = _has(after, Token.LETTERS | Token.INNER) & _has(after, Token.STARTS_STICKY) & ~is_first[marks + 1]
    follows |= _has(flags[marks], Token.STARTS_STICKY)
    precedes |= _has(flags[marks], Token.ENDS_STICKY)
    flags[marks[follows & precedes]] = _JOINED_LETTERS


def find_words(flags: NDArray[np.uint16], offsets: NDArray[np.int64]) -> Words:
    """Return all words, from the `token_flags`, uint16 [T], of documents at offsets int64 [D + 1]."""
    letters = _has(flags, Token.LETTERS)
    inside = _has(flags, _WORD)
    continues = letters.copy()  # the token belongs to the previous token's word
    continues[1:] &= inside[:-1]
    document_starts = _document_starts(offsets, len(flags))
    continues[document_starts] = False
    starts = np.flatnonzero(inside & ~continues)
    last = inside
    last[:-1] &= ~continues[1:]
    stops = np.flatnonzero(last) + 1
    bounds = np.searchsorted(starts, offsets)
    documents = np.repeat(np.arange(len(offsets) - 1), np.diff(bounds))
    indices = np.arange(len(starts)) - bounds[:-1][documents]
    # A space that is a separate token of the same document belongs to the word.
    before = flags[np.maximum(starts - 1, 0)]
    takes_space = letters[starts] & _has(before, Token.LONE_SPACE) & (starts > offsets[documents])
    return Words(starts - takes_space, stops, documents, indices)


def find_letter_tokens(flags: NDArray[np.uint16], offsets: NDArray[np.int64]) -> Words:
    """Return each token of letters as a word of its own; for languages without spaces between words."""
    starts = np.flatnonzero(_has(flags, _WORD))
    bounds = np.searchsorted(starts, offsets)
    documents = np.repeat(np.arange(len(offsets) - 1), np.diff(bounds))
    return Words(starts, starts + 1, documents, np.arange(len(starts)) - bounds[:-1][documents])


def find_eligible(
    flags: NDArray[np.uint16], offsets: NDArray[np.int64], words: Words, in_runs: bool = False
) -> NDArray[np.bool_]:
    """Return which words may be switched: bool [N].

    Args:
        flags: uint16 [T] of `token_flags`.
        offsets: int64 [D + 1].
        words: Words, or spans of words, [N].
        in_runs: Whether letters may be adjacent, as in languages without spaces.
    """
    starts, stops, documents = words.starts, words.stops, words.documents
    first, end = offsets[documents], offsets[documents + 1]
    spaced = _has(flags[starts], Token.SPACED | Token.LONE_SPACE)
    if in_runs:
        # Letters and punctuation may be adjacent, signs and digits may not.
        before, after = (flags[np.clip(neighbours, 0, len(flags) - 1)] for neighbours in (starts - 1, stops))
        opened = (starts == first) | spaced | _has(before, _WORD) | ~_has(before, Token.ENDS_STICKY)
        closed = (stops == end) | _has(after, _WORD) | ~_has(after, Token.STARTS_STICKY)
    else:
        opened = spaced | _is_bounded(flags, starts - 1, starts - first, -1, Token.OPENS, Token.ENDS_STICKY)
        closed = _is_bounded(flags, stops, end - stops, 1, Token.CLOSES, Token.STARTS_STICKY)
    eligible: NDArray[np.bool_] = opened & closed
    tainted = np.flatnonzero(_has(flags, Token.TAINTS))
    if len(tainted):
        chunks = _chunks(flags, offsets)
        tainted_chunks = np.zeros(int(chunks[-1]) + 2, dtype=np.int32)
        tainted_chunks[chunks[tainted] + 1] = 1
        before = np.cumsum(tainted_chunks)
        eligible &= before[chunks[stops - 1] + 1] == before[chunks[starts]]
    return eligible


def hash_words(tokens: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each word's token ids: uint64 [N].

    Args:
        tokens: int [T].
        starts: int64 [N], first token of each word.
        lengths: int64 [N], tokens of each word; at least 1.
    """
    hashes = mix(tokens[starts].astype(np.uint64))
    active = np.flatnonzero(lengths > 1)
    position = 1
    while len(active):
        following = tokens[starts[active] + position].astype(np.uint64)
        hashes[active] = mix(hashes[active] ^ following)
        position += 1
        active = active[lengths[active] > position]
    return hashes


def _has(flags: NDArray[np.uint16], token: int) -> NDArray[np.bool_]:
    """Return which flags have any of those of `token`."""
    # A numpy scalar: an IntEnum would widen the whole array to 64 bits.
    found: NDArray[np.bool_] = (flags & np.uint16(token)) != 0
    return found


def _document_starts(offsets: NDArray[np.int64], num_tokens: int) -> NDArray[np.int64]:
    starts = offsets[:-1]
    return starts[starts < num_tokens]


def _is_bounded(
    flags: NDArray[np.uint16],
    neighbours: NDArray[np.int64],
    room: NDArray[np.int64],
    step: int,
    allows: Token,
    sticky: Token,
) -> NDArray[np.bool_]:
    """Return on one side of each word whether its neighbours allow a switch.

    Args:
        flags: uint16 [T].
        neighbours: int64 [N], the token next to each word; may be outside the document.
        room: int64 [N], tokens of the document on that side.
        step: -1 for the side before, 1 for the side after.
        allows: The flag of tokens that bound a word by themselves; the next higher flag is of those that bound it if
            the token beyond is not `sticky`.
        sticky: The flag of tokens that must not be beyond.
    """
    limit = len(flags) - 1
    near = flags[np.clip(neighbours, 0, limit)]
    beyond = flags[np.clip(neighbours + step, 0, limit)]
    is_free = (room <= 1) | ~_has(beyond, sticky)
    allows_outside = _has(near, allows << 1)
    bounded: NDArray[np.bool_] = (room <= 0) | _has(near, allows) | (allows_outside & is_free)
    return bounded


def _chunks(flags: NDArray[np.uint16], offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the number of each token's run of text without white space: int32 [T], rising from 0 or 1."""
    begins = _has(flags, Token.STARTS_WHITE)
    begins[1:] |= _has(flags[:-1], Token.ENDS_WHITE)
    begins[_document_starts(offsets, len(flags))] = True
    return np.cumsum(begins, dtype=np.int32)
