"""Spellings of a word: its case by the rules of its language, and the ways in which Unicode writes the same letters."""

import unicodedata
from functools import cache

import regex

from megatron_prealign.text.languages import primary_language

# Languages in which i and ı are two letters, with the capitals İ and I.
_DOTTED_I = frozenset(("tr", "az", "crh", "gag"))
# Punctuation that is part of a word where letters are on both sides: of Unicode's word breaking class MidLetter what
# ends no sentence, Hebrew's geresh, Tibetan's dots between syllables, the middle dot of Katakana.
INNER_MARKS = frozenset("\u00b7\u2027\u05f3\u05f4\u0f0b\u0f0c\u30fb")
# Hebrew is typed with ASCII quotes: צה"ל.
WORD_MARKS = INNER_MARKS | frozenset("\"'")
_QUOTED_MARKS = {'"': "\u05f4", "'": "\u05f3"}
_HEBREW_QUOTES = str.maketrans({mark: quote for quote, mark in _QUOTED_MARKS.items()})
_HEBREW_QUOTED = regex.compile(r"(?<=\p{Hebrew})[\"'](?=\p{Hebrew})")
_TSHEG, _TIBETAN_LETTERS = "\u0f0b", "\u0f40"

# Greek in capitals has no accents; a dialytika then shows that two vowels are none: άυλος, ΑΫΛΟΣ.
_GREEK_ACCENTS = regex.compile("[\u0300\u0301\u0313\u0314\u0342]")
_GREEK_HIATUS = regex.compile("(?i)(?<=[αεηο][\u0300\u0301\u0342])([ιυ])(?!\u0308)")

# The marks that Vietnamese keyboards and code pages keep apart from the letter with its other mark: ê + dot below.
_TONE = "[\u0300\u0301\u0303\u0309\u0323]"
_TONES = regex.compile(f"({_TONE})")
_TONE_FIRST = regex.compile(f"({_TONE})([\u0302\u0306\u031b])")
_INDIC = regex.compile("[\u0900-\u0fff]")


def capitalise(word: str, language: str) -> str:
    """Return a word with a capital at its start."""
    if word[:1] == "i" and _has_dotted_i(language):
        return "İ" + word[1:]
    if word[:2] == "ij" and primary_language(language) == "nl":
        return "IJ" + word[2:]
    return word[:1].title() + word[1:]


def capitalise_each(phrase: str, language: str) -> str:
    """Return a phrase with each of its words capitalised."""
    return " ".join([capitalise(word, language) for word in phrase.split(" ")])


def in_capitals(word: str, language: str) -> str:
    """Return a word in capitals; as written where capitals are an uncommon style, as in Georgian."""
    primary = primary_language(language)
    if primary in _DOTTED_I:
        return word.replace("i", "İ").upper()
    if primary == "el":
        return " ".join(map(_greek_capitals, word.split(" ")))
    last = word[-1:]
    return word if last.title() == last != last.upper() else word.upper()


def uncapitalise(word: str, language: str) -> str:
    """Return a word without the capital at its start."""
    if word[:2] == "IJ" and primary_language(language) == "nl":
        return "ij" + word[2:]
    return fold_dotted_i(word[:1], language).lower() + word[1:]


def fold_case(text: str, language: str) -> str:
    """Return a text for comparisons that ignore case, and how Unicode writes the same letters."""
    return fold_dotted_i(unicodedata.normalize("NFC", text), language).casefold()


def fold_dotted_i(text: str, language: str) -> str:
    """Return a text with the capitals of i and ı in lower case if its language has both."""
    return text.replace("İ", "i").replace("I", "ı") if _has_dotted_i(language) else text


def as_written(word: str, language: str) -> str:
    """Return how running text writes a word of a dictionary in lower case: `I` in English."""
    return "I" if word == "i" and primary_language(language) == "en" else word


def with_word_marks(word: str) -> str:
    """Return a word with Hebrew's own marks for quotes between its letters, and no dot behind Tibetan's last."""
    return without_tsheg(_HEBREW_QUOTED.sub(lambda match: _QUOTED_MARKS[match[0]], word))


def without_tsheg(word: str) -> str:
    """Return a Tibetan word without the dot behind its last syllable, as some dictionaries write it."""
    return word.removesuffix(_TSHEG)


def equal_spellings(word: str) -> list[str]:
    """Return the other ways to write the same letters.

    They are the canonically equivalent ones of Unicode: composed, decomposed, with letters that composition excludes
    (Bengali ড়), with the tones of Vietnamese apart from other marks. Hebrew's marks may be ASCII quotes, and a Tibetan
    word takes the dot behind it or not.
    """
    if word.isascii():
        return []
    composed, decomposed = (unicodedata.normalize(form, word) for form in ("NFC", "NFD"))
    found = [composed, decomposed]
    if _INDIC.search(word):
        found.append(_excluded_pattern().sub(lambda match: _excluded()[match[0]], composed))
        if word[-1] >= _TIBETAN_LETTERS:
            found.append(word + _TSHEG)
        found.append(without_tsheg(word))
    elif _TONES.search(decomposed):
        parts = _TONES.split(_TONE_FIRST.sub(r"\2\1", decomposed))
        found.append("".join(unicodedata.normalize("NFC", part) for part in parts))
    elif not word.isalpha():
        found.append(word.translate(_HEBREW_QUOTES))
    return [spelling for spelling in dict.fromkeys(found) if spelling != word]


def _has_dotted_i(language: str) -> bool:
    return primary_language(language) in _DOTTED_I


def _greek_capitals(word: str) -> str:
    if word == "ή":  # the word for "or" is told from the article by its accent
        return "Ή"
    apart = _GREEK_HIATUS.sub("\\1\u0308", unicodedata.normalize("NFD", word))
    return unicodedata.normalize("NFC", _GREEK_ACCENTS.sub("", apart).upper())


@cache
def _excluded() -> dict[str, str]:
    """Return the letters with a nukta that NFC writes as two characters, by those: Indic scripts and Tibetan."""
    letters = map(chr, range(0x900, 0x1000))
    return {parts: letter for letter in letters if len(parts := unicodedata.normalize("NFC", letter)) > 1}


@cache
def _excluded_pattern() -> "regex.Pattern[str]":
    return regex.compile("|".join(_excluded()))
