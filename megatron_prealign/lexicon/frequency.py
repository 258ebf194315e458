"""Word frequencies: of running text in general (wordfreq), and of a corpus compared with a lexicon."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import langcodes
import numpy as np
import regex

from megatron_prealign.errors import ConfigError
from megatron_prealign.lexicon.lexicon import Lexicon, LexiconEntry, Translation
from megatron_prealign.text.languages import is_traditional_chinese, primary_language, uses_spaces
from megatron_prealign.text.spelling import INNER_MARKS, fold_case
from megatron_prealign.text.syllables import find_text_breaks

# Runs of letters with their marks, as code-switching finds words.
_LETTERS = r"\p{L}[\p{L}\p{M}\u200c\u200d]*"
_WORD = regex.compile(f"{_LETTERS}(?:[{''.join(INNER_MARKS)}]{_LETTERS})*")
# Occurrences per million of an unlisted word: those of the rarest that wordfreq lists.
_UNLISTED = 0.01
_PER_MILLION = 1e6

Frequency = Callable[[str], float]


def rank_translations(lexicon: Lexicon) -> tuple[Lexicon, dict[str, str]]:
    """Weight each translation by its frequency and put the heaviest first.

    The weight is that of the dictionary times the occurrences per million words, 0.01 for unlisted ones, normalised to
    1 for each word and language. Without a wordfreq list of the language, the dictionary's weights decide.

    Returns:
        The ranked lexicon, and for each language the list it was ranked by (`none` without one).
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
    # Six digits exceed the precision of the lists and are short in the file; no weight may round to zero.
    shares = [(t, float(f"{weight / totals[t.language]:.6g}")) for t, weight in weighted]
    shares.sort(key=lambda item: (item[0].language, -item[1]))
    return [translation._replace(weight=share) for translation, share in shares]


def _frequency(language: str) -> Frequency | None:
    """Return the occurrences of a word per million, or None if the language has no list."""
    try:
        import wordfreq
        from wordfreq.preprocess import preprocess_text
    except ImportError:
        raise ConfigError(
            "wordfreq, which ranks translations, is not installed; pip install 'megatron-prealign[data]', or pass "
            "--no-rank"
        ) from None
    lists = {primary_language(name): name for name in wordfreq.available_languages("best")}
    name = lists.get(primary_language(language))
    # The Chinese list is in simplified characters, and wordfreq simplifies only with jieba.
    if name is None or is_traditional_chinese(language):
        return None
    listed = wordfreq.get_frequency_dict(name)
    folded_as = langcodes.get(name)

    def frequency(word: str) -> float:
        folded = preprocess_text(word, folded_as)
        parts = folded.split() if uses_spaces(language) else [folded]
        found = [listed.get(part, 0.0) for part in parts]
        # Phrases as in wordfreq: the inverse of the sum of the inverses.
        return _PER_MILLION / sum(1.0 / part for part in found) if found and all(found) else 0.0

    return frequency


@dataclass(frozen=True)
class Coverage:
    """Coverage of a corpus by a lexicon, ignoring case."""

    words: int
    """Words of the corpus; in scripts without spaces the longest matches, else single written syllables."""
    covered_words: int
    """Words that are source words of the lexicon."""
    distinct_words: int
    """Different words."""
    covered_distinct_words: int
    """Different words that the lexicon has."""
    missed: list[tuple[str, int]]
    """The most frequent missing words, with their counts."""
    by_language: dict[str, int]
    """Words of the corpus that have a translation into each language."""

    @property
    def ratio(self) -> float:
        """Share of the corpus's words that the lexicon has, in [0, 1]."""
        return self.covered_words / max(self.words, 1)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain types."""
        return {**asdict(self), "ratio": round(self.ratio, 6)}


def count_corpus_words(texts: Iterable[str], language: str, known: frozenset[str] = frozenset()) -> Counter[str]:
    """Count words, case-folded.

    In languages without spaces, runs of letters are cut by the longest match with `known`, case-folded words.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(fold_case(text, language)))
    if uses_spaces(language):
        return counts
    pieces: Counter[str] = Counter()
    longest = max(map(len, known), default=1)
    for run, count in counts.items():
        for piece in _longest_matches(run, known, longest):
            pieces[piece] += count
    return pieces


def _longest_matches(run: str, known: frozenset[str], longest: int) -> Iterable[str]:
    breaks = np.flatnonzero(find_text_breaks(run)).tolist()
    number = 0
    while number < len(breaks) - 1:
        start = breaks[number]
        limit = bisect_right(breaks, start + longest) - 1
        ends = (end for end in range(limit, number, -1) if run[start : breaks[end]] in known)
        end = next(ends, number + 1)
        yield run[start : breaks[end]]
        number = end


def measure_coverage(lexicon: Lexicon, texts: Iterable[str], num_missed: int = 50) -> Coverage:
    """Measure which words of texts a lexicon has; the source words are looked up case-folded.

    The `num_missed` most frequent missing words are listed.
    """
    languages: dict[str, set[str]] = {}
    for entry in lexicon.entries:
        word = fold_case(entry.word, lexicon.source_language)
        languages.setdefault(word, set()).update(t.language for t in entry.translations)
    counts = count_corpus_words(texts, lexicon.source_language, frozenset(languages))
    missed = Counter({word: count for word, count in counts.items() if word not in languages})
    covered = {word: count for word, count in counts.items() if word in languages}
    by_language = dict.fromkeys(lexicon.languages, 0)
    for word, count in covered.items():
        for language in languages[word]:
            by_language[language] += count
    return Coverage(
        words=counts.total(),
        covered_words=sum(covered.values()),
        distinct_words=len(counts),
        covered_distinct_words=len(covered),
        missed=missed.most_common(num_missed),
        by_language=by_language,
    )
