"""Where words may begin and end in scripts without spaces: never inside a written syllable.

Unicode's grapheme clusters keep a letter and its marks together. A written syllable is more: the vowels that Thai and
Lao write in front of a consonant, the stacked consonants of Khmer and Burmese, a final consonant that a sign silences
or marks as such, all between two dots of Tibetan. Tokens are spelt out, so that a character may lie in several.
"""

from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from megatron_prealign.text.ragged import Ragged


class _Sign(IntEnum):
    """What a character says about its syllable."""

    ATTACHED = 1
    """Belongs to the character before."""
    LEADING = 2
    """Belongs to the character behind: vowels written in front, signs that stack the next consonant."""
    FINAL = 4
    """Its consonant ends a syllable."""
    SILENT = 8
    """Its consonant is silent, and with it the bare one before, which no vowel gives a syllable."""
    SHORT = 16
    """A vowel that always has a final consonant."""
    SHORT_IF_LED = 32
    """Thai: the same if a vowel is also written in front."""
    SHORTENING = 64
    """Thai ็: the same but in ก็, and of a syllable that may begin with another consonant behind a vowel in front."""
    TIBETAN = 128
    """A letter or mark of Tibetan."""


_CHARACTERS = {
    # Letters of their own, but never alone: vowels such as Thai า, medials.
    _Sign.ATTACHED: (
        r"[\p{M}\p{GCB=Extend}\p{GCB=SpacingMark}\p{InSC=Vowel_Dependent}\p{InSC=Consonant_Medial}--\p{LOE}]"
    ),
    _Sign.LEADING: r"[\p{LOE}\p{GCB=Prepend}\p{InSC=Invisible_Stacker}]",
    # Those of Thai and Lao for Pali also begin a syllable. The upper consonant of a Burmese stack is final; bantoc.
    _Sign.FINAL: r"[\p{InSC=Consonant_Killer}\p{InSC=Pure_Killer}\u1039\u17cb--[\u0e3a\u0e4e\u0eba]]",
    _Sign.SILENT: r"\u0e4c",
    _Sign.SHORT: r"[\u0e31\u0e37\u0eb1\u0ebb]",
    _Sign.SHORT_IF_LED: r"[\u0e34\u0e35]",
    _Sign.SHORTENING: r"\u0e47",
    _Sign.TIBETAN: r"[\p{sc=Tibt}&&[\p{L}\p{M}]]",
}
_KO_KAI = 0x0E01  # ก
# Beyond, there are ideographs without signs, then marks alone.
_NUM_LISTED, _FIRST_MARK = 0x20000, 0xE0000


def find_signs(vocabulary: Ragged) -> NDArray[np.bool_]:
    """Return which tokens have, or may have, a character with a sign: bool [V], from their text as UTF-8."""
    places, lows, highs = _characters(vocabulary.values, np.repeat(vocabulary.offsets[1:], vocabulary.lengths))
    counts = np.concatenate(([0], np.cumsum(_signs() != 0)))
    found = counts[np.minimum(highs, _NUM_LISTED - 1) + 1] > counts[np.minimum(lows, _NUM_LISTED)]
    found |= highs >= _FIRST_MARK
    has_signs = np.zeros(len(vocabulary), dtype=bool)
    has_signs[np.searchsorted(vocabulary.offsets, places[found], side="right") - 1] = True
    return has_signs


def find_breaks(vocabulary: Ragged, tokens: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether a word may begin or end before each token, and behind the last: bool [T + 1].

    Args:
        vocabulary: uint8, the text of each token as UTF-8, which is never empty.
        tokens: int [T], documents back to back.
        offsets: int64 [D + 1], where each document begins and ends.
    """
    text, lengths = vocabulary.take(tokens)
    places, codes, _ = _characters(text, np.full(len(text), len(text)))
    # No break inside a character either.
    is_break = np.zeros(len(text) + 1, dtype=bool)
    is_break[places] = _syllable_breaks(codes)
    found: NDArray[np.bool_] = is_break[np.concatenate(([0], np.cumsum(lengths)))]
    found[offsets] = True
    return found


def find_text_breaks(text: str) -> NDArray[np.bool_]:
    """Return the same before each character of a text, and at its end: bool [characters + 1]."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<i4")
    return np.append(_syllable_breaks(codes), True)


def _characters(
    text: NDArray[np.uint8], stops: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Return where the characters of UTF-8 begin, and their code points: the lowest and the highest that they can be.

    Args:
        text: uint8 [B].
        stops: int64 [B], where the piece of each byte ends, which may be inside a character.
    """
    places = np.flatnonzero((text & 0xC0) != 0x80)
    leads = text[places].astype(np.int32)
    lengths = np.digitize(leads, (0x80, 0xE0, 0xF0)) + 1
    lows = leads & np.array([0x7F, 0x1F, 0x0F, 0x07], dtype=np.int32)[lengths - 1]
    highs = lows.copy()
    for step in range(1, 4):
        longer = np.flatnonzero(lengths > step)
        behind = places[longer] + step
        is_known = behind < stops[places[longer]]
        inner = text[np.minimum(behind, len(text) - 1)].astype(np.int32) & 0x3F
        lows[longer] = lows[longer] << 6 | np.where(is_known, inner, 0)
        highs[longer] = highs[longer] << 6 | np.where(is_known, inner, 0x3F)
    return places, lows, highs


def _syllable_breaks(codes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return before which code points, int32 [C], a syllable may begin: bool [C]."""
    if not len(codes):
        return np.zeros(0, dtype=bool)
    signs = np.where(codes < _NUM_LISTED, _signs()[np.minimum(codes, _NUM_LISTED - 1)], np.uint8(0))
    signs[codes >= _FIRST_MARK] = np.uint8(_Sign.ATTACHED)

    def has(signs: NDArray[np.uint8], sign: _Sign) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (signs & np.uint8(sign)) != 0
        return found

    begins = ~has(signs, _Sign.ATTACHED)
    begins[1:] &= ~has(signs[:-1], _Sign.LEADING)
    begins[:1] = True
    starts = np.flatnonzero(begins)
    clusters = np.bitwise_or.reduceat(signs, starts)
    lengths = np.diff(starts, append=len(signs))
    is_bare, is_led = (lengths == 1) & (clusters == 0), has(clusters, _Sign.LEADING)
    shortened = has(clusters, _Sign.SHORTENING) & ((codes[starts] != _KO_KAI) | (lengths > 2))
    joined = has(clusters, _Sign.FINAL)
    joined[:-1] |= is_bare[:-1] & has(clusters[1:], _Sign.SILENT)
    joined[1:] |= shortened[1:] & (is_led & (lengths == 2))[:-1]
    joined[1:] |= (has(clusters, _Sign.SHORT) | is_led & has(clusters, _Sign.SHORT_IF_LED) | shortened)[:-1]
    begins[starts] = ~joined
    is_tibetan = has(signs, _Sign.TIBETAN)
    begins[1:] &= ~(is_tibetan[1:] & is_tibetan[:-1])
    return begins


@cache
def _signs() -> NDArray[np.uint8]:
    """Return the signs of each code point below `_NUM_LISTED`: uint8."""
    characters = "".join(map(chr, range(_NUM_LISTED)))
    signs = np.zeros(_NUM_LISTED, dtype=np.uint8)
    for sign, pattern in _CHARACTERS.items():
        for run in regex.finditer(f"(?V1){pattern}+", characters):
            signs[run.start() : run.end()] |= np.uint8(sign)
    return signs
