"""Languages: whether they separate words by spaces, and their scripts."""

import re
import unicodedata

# ISO 639-1 and -3 codes of languages written without spaces between words.
_UNSPACED_CODES = "zh zho cmn yue wuu lzh ja jpn th tha lo lao my mya km khm bo bod dz dzo"
_UNSPACED = frozenset(_UNSPACED_CODES.split())

# A script is named by the first word of its characters' Unicode names.
_HAN = ("CJK", "IDEOGRAPHIC")
_LANGUAGES_OF_SCRIPTS: dict[tuple[str, ...], str] = {
    ("LATIN",): "af az bs ca cs cy da de deu en eng eo es et eu fi fil fr fra ga gl ha hr hu id ind is it ita la lb lt"
    " lv mg ms mt nb nl nld nn no pl pol por pt ro sk sl so spa sq sv sw swe swh tl tr tur uz vi vie xh yo zu",
    ("CYRILLIC",): "be bg bul kk ky mk mn ru rus tg uk ukr",
    ("CYRILLIC", "LATIN"): "sr srp",
    ("ARABIC",): "ar ara ckb fa fas ps sd ug ur urd",
    ("DEVANAGARI",): "hi hin mar mr ne nep sa",
    _HAN: "cmn lzh wuu yue zh zho",
    (*_HAN, "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"): "ja jpn",
    ("HANGUL", *_HAN): "ko kor",
    ("GREEK",): "el ell",
    ("HEBREW",): "he heb yi",
    ("BENGALI",): "as ben bn",
    ("TAMIL",): "ta tam",
    ("TELUGU",): "te",
    ("KANNADA",): "kn",
    ("MALAYALAM",): "ml",
    ("GUJARATI",): "gu",
    ("GURMUKHI",): "pa",
    ("SINHALA",): "si",
    ("THAI",): "th tha",
    ("LAO",): "lo",
    ("MYANMAR",): "my",
    ("KHMER",): "km",
    ("TIBETAN",): "bo dz",
    ("GEORGIAN",): "ka",
    ("ARMENIAN",): "clone hy",
    ("ETHIOPIC",): "am ti",
}
_TAG = re.compile(r"(clone|[a-z]{2,3})(-[a-z0-9]{1,8})*")
_SCRIPTS = {language: scripts for scripts, listed in _LANGUAGES_OF_SCRIPTS.items() for language in listed.split()}


def normalize_language(language: str) -> str:
    """Return the language tag in lower case with hyphens: `zh_Hans` and `zh-hans` are one language."""
    return language.strip().lower().replace("_", "-")


def language_problems(option: str, language: str | None) -> list[str]:
    """Return what is wrong with a language tag: with the name of a language, rules of the language would not apply."""
    if language is None or _TAG.fullmatch(normalize_language(language)):
        return []
    return [f"{option} {language}: not a language tag; write two or three letters, as in de, zh or zh-hant (ISO 639)"]


def primary_language(language: str) -> str:
    """Return the tag without its subtags: `zh-hans` is `zh`."""
    return normalize_language(language).partition("-")[0]


def uses_spaces(language: str) -> bool:
    """Return whether running text of the language separates words by spaces; True for unknown languages."""
    return primary_language(language) not in _UNSPACED


def is_traditional_chinese(language: str) -> bool:
    """Return whether a tag of Chinese asks for traditional characters: zh-hant, zh-tw, zh-hk, zh-mo."""
    return bool({"hant", "tw", "hk", "mo"} & set(normalize_language(language).split("-")[1:]))


def expected_scripts(language: str) -> tuple[str, ...] | None:
    """Return the scripts that a language is written in, or None for unknown languages."""
    return _SCRIPTS.get(primary_language(language))


def script_of(character: str) -> str:
    """Return the script of a letter as the first word of its Unicode name; empty for a character without a name."""
    return unicodedata.name(character, "").partition(" ")[0]


def script_fits(word: str, language: str) -> bool:
    """Return whether all letters of a word are of a script of its language; True for unknown languages."""
    scripts = expected_scripts(language)
    if scripts is None:
        return True
    # Modifier letters such as the turned comma of Uzbek belong to no script.
    return all(script_of(character) in (*scripts, "MODIFIER") for character in word if character.isalpha())


def one_letter_is_a_word(language: str) -> bool:
    """Return whether single letters are ordinary words: scripts without spaces, and Korean syllables."""
    return not uses_spaces(language) or primary_language(language) in ("ko", "kor")
