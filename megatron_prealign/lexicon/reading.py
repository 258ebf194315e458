"""What all readers of dictionaries share: lines with their numbers, checked word pairs, bad lines told one by one."""

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from megatron_prealign.errors import Problems
from megatron_prealign.lexicon.lexicon import Translation
from megatron_prealign.text.files import open_corpus, reading_errors
from megatron_prealign.text.languages import normalize_language

Pair = tuple[str, Translation]

_LANGUAGE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# Cc: control characters; Cs: halves of surrogate pairs; Zl, Zp: line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


class LineError(Exception):
    """What is wrong with one line; the caller knows where it is."""


@dataclass(frozen=True)
class Languages:
    """The languages of one file's words, as the caller names them."""

    source: str
    """Language of the lexicon's source words."""

    targets: tuple[str, ...]
    """Languages of translations where the file names none: one, or one for each translation of a line."""

    def single_target(self) -> str:
        """Return the one default language.

        Raises:
            LineError: there is none, or more than one.
        """
        if len(self.targets) != 1:
            given = ",".join(self.targets) or "none"
            raise LineError(
                f"no language in the line, and the target language must be one for all such lines (given: {given})"
            )
        return self.targets[0]


@lru_cache(maxsize=1024)
def language_tag(language: str) -> str:
    """Return a language tag normalised.

    Raises:
        LineError: it is none.
    """
    tag = normalize_language(language)
    if not is_language(tag):
        raise LineError(f"{language!r} is not a language tag; write it like de or zh-hans")
    return tag


def is_language(tag: str) -> bool:
    """Tell whether a normalised tag has the form of one: `de`, `zh-hans`."""
    return _LANGUAGE.fullmatch(tag) is not None


def read_bytes(path: Path) -> bytes:
    """Return a file's content, unpacked where its name ends in .gz, .dz or .zst.

    Raises:
        OSError: It can't be read; damaged compression included.
    """
    try:
        with open_corpus(path) as stream:
            return stream.read()
    except OSError:
        raise
    except reading_errors() as error:
        raise OSError(str(error)) from None


def numbered_lines(path: Path, data: bytes, problems: Problems, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines that hold something; undecodable ones go to `problems`."""
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            line = raw.decode(encoding).rstrip("\r")
        except UnicodeDecodeError as error:
            name = encoding.upper()
            problems.add(f"{path}:{number}: not {name} at byte {error.start} of the line; convert the file to UTF-8")
            continue
        if line.strip():
            yield number, line


def make_pair(source: str, translation: str, language: str, weight: float = 1.0) -> Pair:
    """Check and normalise one word pair.

    Raises:
        LineError: the language, the weight or a word can't be right.
    """
    tag = language_tag(language)
    if not (math.isfinite(weight) and weight > 0):
        raise LineError(f"the weight is {weight}; weights are positive and finite")
    return _word(source, "source word"), Translation(_word(translation, "translation"), tag, weight)


def _word(text: str, role: str) -> str:
    """Strip and normalise a word."""
    word = text.strip(" \t")
    if not word.isascii():
        word = unicodedata.normalize("NFC", word)
    if not word:
        raise LineError(f"the {role} is empty")
    if word.isprintable() and "\ufffd" not in word:  # quick; the characters below are not printable
        return word
    for character in word:
        if unicodedata.category(character) in _FORBIDDEN_CATEGORIES or character == "\ufffd":
            raise LineError(f"the {role} {word!a} holds U+{ord(character):04X}; remove the character")
    return word
