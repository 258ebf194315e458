"""Words of dictionaries in the form that running text has."""

import re
import unicodedata
from collections.abc import Sequence

from megatron_prealign.lexicon.lexicon import Translation
from megatron_prealign.lexicon.reading import Pair
from megatron_prealign.text.languages import expected_scripts

# Soft hyphen, zero-width space, word joiner, byte order mark, direction marks: seen by nobody, in the way of matching.
_INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x2060, 0xFEFF, 0x200E, 0x200F, *range(0x202A, 0x202F)])
# The tatweel stretches Arabic letters; running text leaves the vowel signs of Arabic and Hebrew out.
_VOWEL_SIGNS = re.compile("[\u0640\u064b-\u0652\u0670\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
_WITHOUT_VOWEL_SIGNS = ({"ARABIC"}, {"HEBREW"})
# A dictionary that capitalises this share of its headwords does so by habit.
_CAPITALISED_SHARE = 0.9


def normalize_word(word: str, language: str) -> str:
    """Return a word as running text has it; empty where nothing is left.

    Unicode NFC, presentation forms and full-width letters as ordinary ones, without invisible characters, and in
    Arabic and Hebrew script without vowel signs and tatweel.
    """
    if word.isascii():
        return " ".join(word.split())
    text = word.translate(_INVISIBLE)
    if not unicodedata.is_normalized("NFKC", text):
        # Letters alone: ½ and ² would become digits.
        text = "".join(unicodedata.normalize("NFKC", c) if c.isalpha() else c for c in text)
    if set(expected_scripts(language) or ()) in _WITHOUT_VOWEL_SIGNS:
        text = _VOWEL_SIGNS.sub("", unicodedata.normalize("NFC", text))
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalize_pairs(pairs: Sequence[Pair], source_language: str) -> list[Pair]:
    """Normalise both words of each pair; pairs of which a word vanishes are left out."""
    normalized = (
        (normalize_word(word, source_language), Translation(normalize_word(t.word, t.language), t.language, t.weight))
        for word, t in pairs
    )
    return [(word, translation) for word, translation in normalized if word and translation.word]


def lower_headwords(pairs: Sequence[Pair]) -> tuple[list[Pair], bool]:
    """Write source words in lower case where the dictionary capitalises every headword.

    Returns:
        The pairs, and whether they were changed. Words in capitals (NATO) stay.
    """
    cased = [word for word, _ in pairs if word[:1].lower() != word[:1].upper()]
    capitalised = sum(word[0].isupper() for word in cased)
    if not cased or capitalised < _CAPITALISED_SHARE * len(cased):
        return list(pairs), False
    return [(word if word[1:2].isupper() else word[:1].lower() + word[1:], t) for word, t in pairs], True
