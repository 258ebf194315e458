"""Which share of a corpus's words a lexicon has, and which frequent words it lacks."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import regex

from megatron_prealign.lexicon.lexicon import Lexicon
from megatron_prealign.text.languages import uses_spaces

# Runs of letters with their marks, as code-switching finds words.
_WORD = regex.compile(r"\p{L}[\p{L}\p{M}]*")


@dataclass(frozen=True)
class Coverage:
    """A corpus held against a lexicon; case is ignored."""

    words: int
    """Words of the corpus; in scripts without spaces the pieces of the longest match, letters where none matches."""
    covered_words: int
    """Those that are source words of the lexicon."""
    distinct_words: int
    """Different words."""
    covered_distinct_words: int
    """Different words that the lexicon has."""
    missed: list[tuple[str, int]]
    """The most frequent words that it lacks, with their counts."""
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

    Args:
        texts: documents.
        language: of the texts. Without spaces between words, runs of letters are cut by the longest match.
        known: case-folded words for the longest match.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text.casefold()))
    if uses_spaces(language):
        return counts
    pieces: Counter[str] = Counter()
    longest = max(map(len, known), default=1)
    for run, count in counts.items():
        for piece in _longest_matches(run, known, longest):
            pieces[piece] += count
    return pieces


def _longest_matches(run: str, known: frozenset[str], longest: int) -> Iterable[str]:
    start = 0
    while start < len(run):
        length = next((n for n in range(min(longest, len(run) - start), 1, -1) if run[start : start + n] in known), 1)
        yield run[start : start + length]
        start += length


def measure_coverage(lexicon: Lexicon, texts: Iterable[str], num_missed: int = 50) -> Coverage:
    """Hold texts against a lexicon.

    Args:
        lexicon: its source words are looked up, case-folded.
        texts: documents in the source language.
        num_missed: how many missed words to name.
    """
    languages: dict[str, set[str]] = {}
    for entry in lexicon.entries:
        languages.setdefault(entry.word.casefold(), set()).update(t.language for t in entry.translations)
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
