"""The characters of English-Clone: a one-to-one map of ASCII letters, digits and punctuation.

Every clone character has two bytes in UTF-8 and the major Unicode category of its original, so a pre-tokenizer that
looks at categories splits clone text where it splits the original. Letters keep their case relation. All are stable
under Unicode normalisation.
"""

import re
import string

from megatron_prealign.errors import DataError

_ARMENIAN_CAPITAL = 0x0531
_ARMENIAN_SMALL = 0x0561
_NKO_DIGIT_ZERO = 0x07C0
# 23 characters of category P: Syriac marks, Armenian marks, NKo marks.
_PUNCTUATION = [*range(0x0700, 0x070E), *range(0x055A, 0x0560), *range(0x07F7, 0x07FA)]
# 9 characters of category S: Armenian signs, Arabic roots, NKo signs.
_SYMBOLS = [*range(0x058D, 0x0590), *range(0x0606, 0x0609), 0x07F6, 0x07FE, 0x07FF]


def _character_map() -> dict[str, str]:
    """Pair every ASCII letter, digit and punctuation mark with its clone character."""
    symbols = "$+<=>^`|~"
    punctuation = [mark for mark in string.punctuation if mark not in symbols]
    pairs = [
        (string.ascii_uppercase, range(_ARMENIAN_CAPITAL, _ARMENIAN_CAPITAL + 26)),
        (string.ascii_lowercase, range(_ARMENIAN_SMALL, _ARMENIAN_SMALL + 26)),
        (string.digits, range(_NKO_DIGIT_ZERO, _NKO_DIGIT_ZERO + 10)),
        (punctuation, _PUNCTUATION),
        (symbols, _SYMBOLS),
    ]
    return {original: chr(code) for originals, codes in pairs for original, code in zip(originals, codes, strict=True)}


CLONE_CHARACTERS: dict[str, str] = _character_map()
"""ASCII character to clone character: 52 letters, 10 digits, 32 punctuation marks."""

_TO_CLONE = str.maketrans(CLONE_CHARACTERS)
_FROM_CLONE = str.maketrans({clone: original for original, clone in CLONE_CHARACTERS.items()})
_CLONE_PATTERN = re.compile(f"[{''.join(CLONE_CHARACTERS.values())}]")


def find_clone_character(text: str) -> str | None:
    """Return the first clone character of a text, or None."""
    match = _CLONE_PATTERN.search(text)
    return match.group() if match else None


def clone_text(text: str) -> str:
    """Translate a text to English-Clone, character by character; everything but printable ASCII stays.

    Raises:
        DataError: the text already holds a clone character, so that no exact way back would exist.
    """
    if found := find_clone_character(text):
        raise DataError(
            f"the text holds {found!r} (U+{ord(found):04X}), which English-Clone uses itself; leave such documents out"
        )
    return text.translate(_TO_CLONE)


def unclone_text(text: str) -> str:
    """Translate English-Clone back: the exact inverse of `clone_text`."""
    return text.translate(_FROM_CLONE)
