"""How frequent words are in running text (wordfreq), to rank the translations of a word."""

from collections.abc import Callable

from megatron_prealign.errors import ConfigError
from megatron_prealign.lexicon.lexicon import Lexicon, LexiconEntry, Translation
from megatron_prealign.text.languages import is_traditional_chinese, primary_language, uses_spaces

# What a word weighs that is in no list, a million words: the rarest that wordfreq lists.
_UNLISTED = 0.01
_PER_MILLION = 1e6

Frequency = Callable[[str], float]


def rank_translations(lexicon: Lexicon) -> tuple[Lexicon, dict[str, str]]:
    """Weight each translation by its frequency and put the heaviest first.

    The weight is that of the dictionary times the occurrences in a million words, 0.01 for unlisted ones; in each
    language the weights of a word then sum to 1. Where wordfreq has no list, the dictionary's weights decide.

    Returns:
        The ranked lexicon, and for each language the list it was ranked by (`none` without one).

    Raises:
        ConfigError: wordfreq is not installed.
    """
    frequencies = {language: _frequency(language) for language in lexicon.languages}
    entries = tuple(
        LexiconEntry(entry.word, tuple(_ranked(entry.translations, frequencies))) for entry in lexicon.entries
    )
    lists = {
        language: f"wordfreq {primary_language(language)}" if frequency else "none"
        for language, frequency in frequencies.items()
    }
    return Lexicon(lexicon.source_language, entries), lists


def _ranked(translations: tuple[Translation, ...], frequencies: dict[str, Frequency | None]) -> list[Translation]:
    totals = dict.fromkeys((translation.language for translation in translations), 0.0)
    weighted = []
    for translation in translations:
        frequency = frequencies[translation.language]
        weight = translation.weight * (max(frequency(translation.word), _UNLISTED) if frequency else 1.0)
        totals[translation.language] += weight
        weighted.append((translation, weight))
    # Six digits are more than the lists know, and short in the file; no weight may round to zero.
    shares = [(t, float(f"{weight / totals[t.language]:.6g}")) for t, weight in weighted]
    shares.sort(key=lambda item: (item[0].language, -item[1]))
    return [translation._replace(weight=share) for translation, share in shares]


def _frequency(language: str) -> Frequency | None:
    """Return the occurrences of a word in a million, or None where the language has no list."""
    try:
        import langcodes
        import wordfreq
        from wordfreq.preprocess import preprocess_text
    except ImportError:
        raise ConfigError(
            "wordfreq, which ranks translations, is not installed; pip install 'megatron-prealign[data]', or pass "
            "--no-rank"
        ) from None
    primary = primary_language(language)
    # The list of Chinese is in simplified characters, and wordfreq simplifies only where jieba is installed.
    if primary not in wordfreq.available_languages("best") or is_traditional_chinese(language):
        return None
    listed = wordfreq.get_frequency_dict(primary)
    folded_as = langcodes.get(primary)

    def frequency(word: str) -> float:
        folded = preprocess_text(word, folded_as)
        parts = folded.split() if uses_spaces(language) else [folded]
        found = [listed.get(part, 0.0) for part in parts]
        # Of a phrase as wordfreq does it: the inverse of the sum of the inverses.
        return _PER_MILLION / sum(1.0 / part for part in found) if found and all(found) else 0.0

    return frequency
