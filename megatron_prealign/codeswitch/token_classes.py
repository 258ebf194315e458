"""Classes of a vocabulary's tokens: what the bytes of each imply for the words of a text.

Computed once per vocabulary; `megatron_prealign.codeswitch.words` then works on whole arrays of flags.
"""

import unicodedata
from collections.abc import Collection, Sequence
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray


class Token(IntEnum):
    """Properties of a token that concern words."""

    SPACED = 1
    """One space, then letters: begins a word."""
    LETTERS = 2
    """Letters only: begins or continues a word."""
    LONE_SPACE = 4
    """One space: belongs to the next word, if that begins without one."""
    CONTINUATION = 8
    """Only the inner bytes of a character: takes the class of the token that began it."""
    STARTS_WHITE = 16
    ENDS_WHITE = 32
    """White space at an end: a chunk of text begins or ends here."""
    TAINTS = 64
    """Contains a sign of URLs, e-mail addresses or code: no word of its chunk is eligible."""
    OPENS = 128
    """A word may follow."""
    OPENS_OUTSIDE = 256
    """Brackets and quotes only: a word may follow if the token before does not end in `sticky` characters."""
    CLOSES = 512
    """A word may come before."""
    CLOSES_OUTSIDE = 1024
    """Closing punctuation only: a word may come before if the token after does not start with a `sticky` character."""
    STARTS_STICKY = 2048
    ENDS_STICKY = 4096
    """A letter, digit or sign at an end that makes punctuation next to it part of an expression."""
    STARTS_MARK = 8192
    """A mark that belongs to the letter before, as the vowels of Thai do."""


_WHITE = Token.STARTS_WHITE | Token.ENDS_WHITE
_EITHER_SIDE = Token.OPENS | Token.CLOSES
_TAINTING = frozenset("@\\_=<>{}|~^#$`")
_TAINTING_STRINGS = ("//", "www")
_SIGNS = frozenset("_@/\\#$%&=+~*")
_DASHES = frozenset("–—")
_JOINERS = "\u200c\u200d"  # zero-width: inside words of Persian and of Indic scripts


def classify_vocabulary(token_bytes: Sequence[bytes], special_ids: Collection[int] = ()) -> NDArray[np.uint16]:
    """Return the classes of each token: uint16 [V] of `Token` flags.

    Args:
        token_bytes: The bytes of each token.
        special_ids: Tokens without text; they bound words like white space.
    """
    boundary = _WHITE | _EITHER_SIDE
    special = frozenset(special_ids)
    letters, spaced = map(_classify_token, (b"a", b" a"))

    def classify(data: bytes) -> int:
        # Most tokens are letters only, which all have the same flags.
        text = data.decode("utf-8", errors="replace")
        if (text.isalpha() or (text[:1] == " " and text[1:].isalpha())) and not _has_tainting_string(text):
            return letters if text[:1] != " " else spaced
        return _classify_token(data)

    flags = [boundary if index in special or not data else classify(data) for index, data in enumerate(token_bytes)]
    return np.array(flags, dtype=np.uint16)


def is_letters(text: str) -> bool:
    """Return whether a text is one word: letters and marks only."""
    return text.isalpha() or (bool(text) and all(_kind(character) == "l" for character in text))


def _classify_token(data: bytes) -> int:
    text = data.lstrip(bytes(range(0x80, 0xC0)))
    if not text:
        return Token.CONTINUATION
    kinds, characters = _characters(text)
    flags = _boundary_flags(kinds, characters)
    if len(text) < len(data):  # begins inside a character: nothing is known of that side
        flags &= ~(Token.STARTS_WHITE | Token.STARTS_STICKY | Token.CLOSES | Token.CLOSES_OUTSIDE)
        flags &= ~Token.OPENS_OUTSIDE
    if unicodedata.category(characters[0])[0] == "M" and len(text) == len(data):
        flags |= Token.STARTS_MARK
    if characters == " " and len(text) == len(data):
        flags |= Token.LONE_SPACE
    elif set(kinds) == {"l"}:
        flags |= Token.LETTERS
    elif characters[0] == " " and set(kinds[1:]) == {"l"} and len(text) == len(data):
        flags |= Token.SPACED
    if _TAINTING & set(characters) or _has_tainting_string(characters):
        flags |= Token.TAINTS
    return flags


def _has_tainting_string(text: str) -> bool:
    return any(string in text for string in _TAINTING_STRINGS)


def _boundary_flags(kinds: str, characters: str) -> int:
    opening = [_is_opening(character) for character in characters]
    closing = [_is_closing(character) for character in characters]
    flags = _side_flags(kinds[::-1], characters[::-1], opening[::-1], Token.OPENS)
    flags |= _side_flags(kinds, characters, closing, Token.CLOSES)
    flags |= Token.STARTS_WHITE if kinds[0] == "w" else 0
    flags |= Token.ENDS_WHITE if kinds[-1] == "w" else 0
    flags |= Token.STARTS_STICKY if _is_sticky(kinds[0], characters[0]) else 0
    flags |= Token.ENDS_STICKY if _is_sticky(kinds[-1], characters[-1]) else 0
    return flags


def _side_flags(kinds: str, characters: str, allowed: list[bool], allows: Token) -> int:
    """Return what one side of a token implies for the adjacent word; the characters are given from the word on."""
    run = next((i for i, is_allowed in enumerate(allowed) if not is_allowed), len(allowed))
    if _DASHES & set(characters[:run]):
        return allows
    if run == len(kinds):
        return allows << 1
    if run == 0:
        return allows if kinds[0] == "w" else 0
    return 0 if _is_sticky(kinds[run], characters[run]) else allows


def _characters(data: bytes) -> tuple[str, str]:
    """Return the kinds and the characters of bytes that begin at a character and may end inside one.

    Kinds: `w` white space, `l` letter or mark, `d` digit, `o` other. An incomplete character has the kind of most
    characters that it may become, and is shown as U+FFFD.
    """
    text = data.decode("utf-8", errors="ignore")
    rest = data[len(text.encode("utf-8")) :]
    kinds = "".join(map(_kind, text))
    return (kinds + _kind_of_partial(rest), text + "\ufffd") if rest else (kinds, text)


@cache
def _kind(character: str) -> str:
    if character.isspace():
        return "w"
    major = unicodedata.category(character)[0]
    if major in "LM" or character in _JOINERS:
        return "l"
    return "d" if major == "N" else "o"


@cache
def _kind_of_partial(lead: bytes) -> str:
    missing = next((n for n, limit in ((1, 0xE0), (2, 0xF0), (3, 0xF8)) if lead[0] < limit), 0) + 1 - len(lead)
    # F0 alone may become a rare ideograph, but most characters of its range in texts are emoji.
    if lead[0] < 0xC2 or missing < 1 or lead == b"\xf0":
        return "o"
    low = lead + b"\x80" * missing
    high = lead + b"\xbf" * missing
    bounds = [_code_point(data) for data in (low, high)]
    letters = others = 0
    # A sample of the range is enough to find its most frequent kind.
    for code in range(bounds[0], bounds[1] + 1, max(1, (bounds[1] - bounds[0]) // 512)):
        category = unicodedata.category(chr(code)) if code < 0x110000 else "Cn"
        letters += category[0] in "LM"
        others += category[0] in "PSNZ"
    return "l" if letters > others else "o"


def _code_point(data: bytes) -> int:
    code = data[0] & (0x7F >> len(data))
    for byte in data[1:]:
        code = code << 6 | byte & 0x3F
    return code


@cache
def _is_sticky(kind: str, character: str) -> bool:
    return kind in "ld" or character in _SIGNS


@cache
def _is_opening(character: str) -> bool:
    return character in "\"'¿¡" or character in _DASHES or unicodedata.category(character) in ("Ps", "Pi", "Pf")


@cache
def _is_closing(character: str) -> bool:
    if character in "\"'.,;:!?…" or character in _DASHES:
        return True
    category = unicodedata.category(character)
    return category in ("Pe", "Pi", "Pf") or (category == "Po" and ord(character) > 0x7F)
