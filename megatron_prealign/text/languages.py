"""Languages: their tags (langcodes), whether they separate words by spaces, and their scripts."""

from functools import cache, lru_cache

import regex
from langcodes import Language
from langcodes.data_dicts import LIKELY_SUBTAGS
from langcodes.tag_parser import LanguageTagError

# English-Clone, which no standard lists, is written in Armenian letters.
_CLONE, _CLONE_SCRIPT = "clone", "Armn"
# ISO 15924 codes of more than one script of Unicode, or of a style of one.
_UNICODE_SCRIPTS = {
    "Hans": ("Hani",),
    "Hant": ("Hani",),
    "Hanb": ("Hani", "Bopo"),
    "Jpan": ("Hani", "Hira", "Kana"),
    "Hrkt": ("Hira", "Kana"),
    "Kore": ("Hang", "Hani"),
    "Aran": ("Arab",),
}
# Scripts written without spaces between words: those of Unicode's line breaking classes ID and SA, and Tibetan.
_UNSPACED_CODES = "Hani Hans Hant Hanb Jpan Hrkt Hira Kana Bopo Thai Laoo Mymr Khmr Lana Tale Talu Tavt Tibt"
_UNSPACED = frozenset(_UNSPACED_CODES.split())
# A territory whose speakers of a language write another script than most: sr-ME is in Latin letters.
_TERRITORY_LENGTHS = (2, 3)


def normalize_language(language: str) -> str:
    """Return the language tag in lower case with hyphens: `zh_Hans` and `zh-hans` are one language."""
    return language.strip().lower().replace("_", "-")


def is_language(language: str) -> bool:
    """Return whether this is a language tag whose language has two or three letters: not `german`, not `noun`."""
    tag = _parse(language)
    return normalize_language(language) == _CLONE or (tag is not None and len(tag.language or "und") in (2, 3))


def language_problems(option: str, language: str | None) -> list[str]:
    """Return what is wrong with a language tag: with the name of a language, rules of the language would not apply."""
    if language is None or is_language(language):
        return []
    return [f"{option} {language}: not a language tag; write two or three letters, as in de, zh or zh-hant (ISO 639)"]


@lru_cache(maxsize=1024)
def primary_language(language: str) -> str:
    """Return the shortest code of a tag's language: `zh` of `zh-hans` and `cmn_Hans`, `ar` of `arb`."""
    tag = _parse(language)
    known = tag.prefer_macrolanguage().language if tag else None
    return known or normalize_language(language).partition("-")[0]


@lru_cache(maxsize=1024)
def uses_spaces(language: str) -> bool:
    """Return whether running text of the language separates words by spaces; True for unknown languages."""
    return not _UNSPACED & frozenset(_script_codes(language))


def is_traditional_chinese(language: str) -> bool:
    """Return whether a tag of Chinese asks for traditional characters: zh-hant, zh-tw, zh-hk, zh-mo, yue."""
    tag = _parse(language)
    return tag is not None and tag.maximize().script == "Hant"


@lru_cache(maxsize=1024)
def expected_scripts(language: str) -> tuple[str, ...] | None:
    """Return the scripts that a language is written in as ISO 15924 codes (Latn), or None for unknown languages."""
    codes = _script_codes(language)
    scripts = (script for code in codes for script in _UNICODE_SCRIPTS.get(code, (code,)))
    return tuple(dict.fromkeys(scripts)) or None


def script_fits(word: str, language: str) -> bool:
    """Return whether all letters of a word are of a script of its language; True for unknown languages."""
    scripts = expected_scripts(language)
    return scripts is None or _written_in(scripts).fullmatch(word) is not None


def one_letter_is_a_word(language: str) -> bool:
    """Return whether single letters are ordinary words: scripts without spaces, and Korean syllables."""
    return not uses_spaces(language) or primary_language(language) == "ko"


@lru_cache(maxsize=1024)
def _parse(language: str) -> Language | None:
    try:
        return Language.get(normalize_language(language))
    except LanguageTagError:
        return None


def _script_codes(language: str) -> tuple[str, ...]:
    """Return the script that a tag names, else those that its language is written in."""
    tag = _parse(language)
    if tag is None:
        return (_CLONE_SCRIPT,) if primary_language(language) == _CLONE else ()
    if tag.script:
        return (tag.script,)
    codes = (tag.language, primary_language(language)) if tag.language else ()
    known = next((code for code in codes if code in LIKELY_SUBTAGS), None)
    if known is None:
        return ()
    return (Language.get(LIKELY_SUBTAGS[known]).script or "", *_scripts_by_territory().get(known, ()))


@cache
def _scripts_by_territory() -> dict[str, list[str]]:
    """Return the scripts of each language in territories where it is not that of most."""
    found: dict[str, list[str]] = {}
    for tag, likely in LIKELY_SUBTAGS.items():
        code, _, rest = tag.partition("-")
        if len(rest) in _TERRITORY_LENGTHS:
            found.setdefault(code, []).append(likely.split("-")[1])
    return found


@cache
def _written_in(scripts: tuple[str, ...]) -> "regex.Pattern[str]":
    # Modifier letters such as the turned comma of Uzbek belong to no script; ー belongs to those of Japanese.
    listed = "".join(rf"\p{{scx={script}}}" for script in scripts)
    return regex.compile(rf"(?V1)[\P{{L}}{listed}[\p{{Lm}}&&\p{{scx=Zyyy}}]]*")
