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
from megatron_prealign.codeswitch.token_classes import Token

_WORD = Token.SPACED | Token.LETTERS


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


def token_flags(vocabulary: NDArray[np.uint16], tokens: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Return the classes of the tokens of a text: uint16 [T]; inner bytes become like what they continue.

    Args:
        vocabulary: uint16 [V] of `classify_vocabulary`.
        tokens: int [T], documents back to back.
        offsets: int64 [D + 1], where each document begins and ends.
    """
    flags: NDArray[np.uint16] = vocabulary[tokens]
    inner = np.flatnonzero(_has(flags, Token.CONTINUATION))
    if not len(inner):
        return flags
    # A run of inner bytes continues the token before it within its document.
    begins = np.diff(inner, prepend=-2) != 1
    is_first = np.zeros(len(tokens), dtype=bool)
    is_first[_document_starts(offsets, len(tokens))] = True
    begins |= is_first[inner]
    runs = np.flatnonzero(begins)
    before = inner[runs] - 1
    continues_word = _has(flags[before], _WORD) & ~is_first[inner[runs]]
    letters = Token.LETTERS | Token.STARTS_STICKY | Token.ENDS_STICKY
    values = np.where(continues_word, np.uint16(letters), np.uint16(0))
    flags[inner] = np.repeat(values, np.diff(runs, append=len(inner)))
    return flags


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
        closed &= (stops == end) | ~_has(after, Token.STARTS_MARK)
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
