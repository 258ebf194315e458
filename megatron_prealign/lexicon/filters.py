"""Filters for dirty dictionaries, each counting what it dropped."""

import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from megatron_prealign.errors import ConfigError, DataError
from megatron_prealign.lexicon.lexicon import Lexicon, Translation
from megatron_prealign.text.languages import one_letter_is_a_word, script_fits
from megatron_prealign.text.spelling import INNER_MARKS

# Inside a word these join letters (l'eau, mother-in-law, Persian compounds with a zero-width non-joiner).
_JOINERS = frozenset("'\u2019-\u2010\u200c\u200d") | INNER_MARKS

_NUM_EXAMPLES = 5

_Check = Callable[[str, str, Translation], bool]


@dataclass
class Dropped:
    """What one filter dropped."""

    count: int = 0
    """Number of word pairs."""
    examples: list[str] = field(default_factory=list)
    """The first of them, as `word → translation`."""
    by_language: Counter[str] = field(default_factory=Counter, compare=False)
    """Number by language of the translation."""

    def add(self, word: str, translation: Translation) -> None:
        """Count a pair, and keep it as an example if it is among the first."""
        self.count += 1
        self.by_language[translation.language] += 1
        if len(self.examples) < _NUM_EXAMPLES:
            self.examples.append(f"{word} → {translation.word}")


def filter_lexicon(
    lexicon: Lexicon,
    *,
    identity: bool = True,
    script: bool = True,
    non_letters: bool = True,
    one_letter: bool = True,
    max_length: int | None = None,
    multi_word: bool = False,
) -> tuple[Lexicon, dict[str, Dropped]]:
    """Drop word pairs that are unlikely to be translations.

    A pair counts for the first filter that drops it, in the order of the arguments. The order of the remaining words is
    unchanged.

    Args:
        lexicon: what to clean.
        identity: drop pairs of equal words, ignoring case.
        script: drop pairs with a letter outside the script of its language (unknown languages pass).
        non_letters: drop pairs with digits, punctuation or symbols; hyphens and apostrophes inside words pass.
        one_letter: drop pairs with a word of one letter, except where single characters are words (zh, ja, ko, th).
        max_length: drop pairs with a word of more characters, which is an explanation; None for any length.
        multi_word: drop pairs with a space in either word.

    Returns:
        The cleaned lexicon, and what each active filter dropped.

    Raises:
        ConfigError: `max_length` is below 1.
        DataError: nothing is left.
    """
    if max_length is not None and max_length < 1:
        raise ConfigError(f"max_length is {max_length}; allow at least 1 character, or leave it out for any length")
    switched_on = {"identity": identity, "script": script, "non_letters": non_letters, "one_letter": one_letter}
    checks = {name: _CHECKS[name] for name, on in switched_on.items() if on}
    if max_length is not None:
        checks["max_length"] = lambda word, _, translation: max(len(word), len(translation.word)) > max_length
    if multi_word:
        checks["multi_word"] = lambda word, _, translation: len(word.split()) > 1 or len(translation.word.split()) > 1
    dropped = {name: Dropped() for name in checks}
    kept: list[tuple[str, Translation]] = []
    for word, translation in lexicon.pairs():
        reason = next((n for n, check in checks.items() if check(word, lexicon.source_language, translation)), None)
        if reason is None:
            kept.append((word, translation))
        else:
            dropped[reason].add(word, translation)
    if not kept:
        counts = ", ".join(f"{name} {found.count}" for name, found in dropped.items() if found.count)
        raise DataError(f"the filters dropped all {lexicon.num_pairs} word pairs ({counts}); check the languages given")
    return Lexicon.from_pairs(lexicon.source_language, kept), dropped


def keep_heaviest(lexicon: Lexicon, max_translations: int) -> tuple[Lexicon, Dropped]:
    """Keep the heaviest translations of each word in each language, in their order; the first among equals."""
    if max_translations < 1:
        raise ConfigError(f"max_translations is {max_translations}; keep at least 1, or leave it out to keep all")
    dropped = Dropped()
    kept = []
    for entry in lexicon.entries:
        seen: Counter[str] = Counter()
        chosen: set[str] = set()
        for translation in sorted(entry.translations, key=lambda t: -t.weight):
            seen[translation.language] += 1
            if seen[translation.language] <= max_translations:
                chosen.add(f"{translation.language} {translation.word}")
        for translation in entry.translations:
            if f"{translation.language} {translation.word}" in chosen:
                kept.append((entry.word, translation))
            else:
                dropped.add(entry.word, translation)
    return Lexicon.from_pairs(lexicon.source_language, kept), dropped


def _is_lettered(word: str) -> bool:
    """Return whether a word is letters, combining marks and spaces, with joiners only between them."""
    if word[0] in _JOINERS or word[-1] in _JOINERS:
        return False
    return all(unicodedata.category(c)[0] in "LM" or c == " " or c in _JOINERS for c in word)


def _is_one_letter(word: str, language: str) -> bool:
    # Marks count: \u092e\u093e\u0901 (Hindi for mother) is one letter with two vowel signs.
    length = sum(unicodedata.category(character)[0] in "LM" for character in word)
    return length <= 1 and not one_letter_is_a_word(language)


_CHECKS: dict[str, _Check] = {
    "identity": lambda word, _, t: word.casefold() == t.word.casefold(),
    "script": lambda word, language, t: not (script_fits(word, language) and script_fits(t.word, t.language)),
    "non_letters": lambda word, _, t: not (_is_lettered(word) and _is_lettered(t.word)),
    "one_letter": lambda word, language, t: _is_one_letter(word, language) or _is_one_letter(t.word, t.language),
}
