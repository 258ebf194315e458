"""Classes of a vocabulary's tokens: what the bytes of each imply for the words of a text.

Computed once per vocabulary; `megatron_prealign.codeswitch.words` then works on whole arrays of flags.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, lru_cache

import numpy as np
import regex
from numpy.typing import NDArray

from megatron_prealign.text.ragged import Ragged
from megatron_prealign.text.spelling import INNER_MARKS, without_tsheg


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
    UNSURE = 8192
    """Ends inside a character that may become a letter or not: the classes are a guess."""
    INNER = 16384
    """Letters, and at an end a mark that belongs to a word only between letters."""


_TAINTING = frozenset("@\\_=<>{}|~^#$`")
_TAINTING_STRINGS = ("//", "www")
_SIGNS = frozenset("_@/\\#$%&=+~*")
_DASHES = frozenset("–—")
_JOINERS = "\u200c\u200d"  # zero-width: inside words of Persian and of Indic scripts
# Direction marks, zero-width space and the like; text beside them is read as if they were not there.
_INVISIBLE = regex.compile(rf"(?V1)[[\p{{Default_Ignorable_Code_Point}}&&\p{{Cf}}]--[{_JOINERS}]]")
_INNER_MARKS = regex.compile(f"[{''.join(INNER_MARKS)}]")


@dataclass(frozen=True)
class Vocabulary(Ragged):
    """The text of each token as UTF-8, and its classes; a special token is a line break."""

    flags: NDArray[np.uint16]
    """`Token` flags: [V]."""
    inner_marks: NDArray[np.uint32]
    """Punctuation that is part of a word between two letters, as code points."""

    def classify_joined(self, tokens: Sequence[int]) -> int:
        """Return the classes of the text that tokens spell together."""
        data = b"".join(self[token].tobytes() for token in tokens)
        return _classify_joined(data, "".join(map(chr, self.inner_marks)))


def classify_vocabulary(
    token_bytes: Sequence[bytes], special_ids: Collection[int] = (), inner_marks: Collection[str] = ()
) -> Vocabulary:
    """Return the classes of each token.

    Args:
        token_bytes: The bytes of each token.
        special_ids: Tokens without text; they bound words like white space.
        inner_marks: Punctuation that is part of a word between two letters.
    """
    special = frozenset(special_ids)
    inner = "".join(sorted(inner_marks))
    letters, spaced = (_classify_token(data, inner) for data in (b"a", b" a"))

    def classify(data: bytes) -> int:
        # Most tokens are letters only, which all have the same flags.
        text = data.decode("utf-8", errors="replace")
        if (text.isalpha() or (text[:1] == " " and text[1:].isalpha())) and not _has_tainting_string(text):
            return letters if text[:1] != " " else spaced
        return _classify_token(data, inner)

    rows = [b"\n" if index in special or not data else data for index, data in enumerate(token_bytes)]
    flags = np.array([classify(data) for data in rows], dtype=np.uint16)
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    text = Ragged.of(np.frombuffer(b"".join(rows), dtype=np.uint8), lengths)
    return Vocabulary(text.values, text.offsets, flags, np.array(list(map(ord, inner)), dtype=np.uint32))


def is_letters(text: str) -> bool:
    """Return whether a text is one word: letters and marks, and between them marks that are part of words."""
    if text.isalpha():
        return True
    parts = _INNER_MARKS.split(without_tsheg(text))
    return all(part and all(_kind(character) == "l" for character in part) for part in parts)


@lru_cache(maxsize=1 << 16)
def _classify_joined(data: bytes, inner: str) -> int:
    return _classify_token(data, inner)


def _classify_token(data: bytes, inner: str) -> int:
    text = data.lstrip(bytes(range(0x80, 0xC0)))
    if not text:
        return Token.CONTINUATION
    kinds, characters, is_unsure = _characters(text)
    flags = Token.UNSURE if is_unsure else 0
    if inner and not set(inner).isdisjoint(characters):
        kinds, is_inner = _without_inner(kinds, characters, inner)
        flags |= Token.INNER if is_inner else 0
    flags |= _boundary_flags(kinds, characters)
    if len(text) < len(data):  # begins inside a character: nothing is known of that side
        flags &= ~(Token.STARTS_WHITE | Token.STARTS_STICKY | Token.CLOSES | Token.CLOSES_OUTSIDE)
        flags &= ~Token.OPENS_OUTSIDE
    if characters == " " and len(text) == len(data):
        flags |= Token.LONE_SPACE
    elif set(kinds) == {"l"}:
        flags |= Token.LETTERS
    elif characters[0] == " " and set(kinds[1:]) == {"l"} and len(text) == len(data):
        flags |= Token.SPACED
    if _TAINTING & set(characters) or _has_tainting_string(characters):
        flags |= Token.TAINTS
    return flags


def _without_inner(kinds: str, characters: str, inner: str) -> tuple[str, bool]:
    """Return the kinds with inner marks as letters between letters, else as other; and whether neighbours decide."""
    kinds = "".join("m" if character in inner else kind for kind, character in zip(kinds, characters, strict=True))
    kinds = re.sub("(?<=l)m(?=l)", "l", kinds)
    return kinds.replace("m", "o"), "m" in kinds and set(kinds) <= {"l", "m"}


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


def _characters(data: bytes) -> tuple[str, str, bool]:
    """Return the kinds and the characters of bytes that begin at a character and may end inside one.

    Kinds: `w` white space, `l` letter or mark, `d` digit, `o` other. An incomplete character has the kind of most
    characters that it may become, and is shown as U+FFFD; last is whether it may become any other.
    """
    text = data.decode("utf-8", errors="ignore")
    rest = data[len(text.encode("utf-8")) :]
    kinds = "".join(map(_kind, text))
    if not rest:
        return kinds, text, False
    kind, is_unsure = _kind_of_partial(rest)
    return kinds + kind, text + "\ufffd", is_unsure


@cache
def _kind(character: str) -> str:
    if character.isspace():
        return "w"
    major = unicodedata.category(character)[0]
    if major in "LM" or character in _JOINERS:
        return "l"
    return "d" if major == "N" else "o"


@cache
def _kind_of_partial(lead: bytes) -> tuple[str, bool]:
    missing = next((n for n, limit in ((1, 0xE0), (2, 0xF0), (3, 0xF8)) if lead[0] < limit), 0) + 1 - len(lead)
    # F0 alone may become a rare ideograph, but most characters of its range in texts are emoji.
    if lead[0] < 0xC2 or missing < 1 or lead == b"\xf0":
        return "o", True
    low = lead + b"\x80" * missing
    high = lead + b"\xbf" * missing
    bounds = [_code_point(data) for data in (low, high)]
    letters = others = formats = 0
    # A sample of the range is enough to find its most frequent kind.
    for code in range(bounds[0], bounds[1] + 1, max(1, (bounds[1] - bounds[0]) // 512)):
        category = unicodedata.category(chr(code)) if code < 0x110000 else "Cn"
        letters += category[0] in "LM"
        others += category[0] in "PSNZ"
        formats += category == "Cf"
    return "l" if letters > others else "o", others + formats > 0 or not letters


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
    if character in "\"'¿¡" or character in _DASHES or _INVISIBLE.match(character):
        return True
    return unicodedata.category(character) in ("Ps", "Pi", "Pf")


@cache
def _is_closing(character: str) -> bool:
    if character in "\"'.,;:!?…" or character in _DASHES or _INVISIBLE.match(character):
        return True
    category = unicodedata.category(character)
    return category in ("Pe", "Pi", "Pf") or (category == "Po" and ord(character) > 0x7F)
