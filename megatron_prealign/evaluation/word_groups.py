"""Groups of words: those a lexicon has, and bands of frequency. Words are compared case-folded."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_prealign.errors import DataError, Problems
from megatron_prealign.lexicon import Lexicon
from megatron_prealign.lexicon.reading import UNREADABLE, numbered_lines, read_bytes


def lexicon_words(lexicon: Lexicon, languages: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the words a lexicon has in each language, its source or a target; phrases are among them.

    Raises:
        DataError: it has none of a language.
    """
    words: dict[str, set[str]] = {lexicon.source_language: {entry.word.casefold() for entry in lexicon.entries}}
    for _, translation in lexicon.pairs():
        words.setdefault(translation.language, set()).add(translation.word.casefold())
    if missing := [language for language in languages if language not in words]:
        raise DataError(
            f"the lexicons have no word of {', '.join(missing)}, only of {', '.join(words)}: "
            "give other languages a task of their own"
        )
    return {language: frozenset(words[language]) for language in languages}


def read_counts(path: Path) -> dict[str, float]:
    """Read a frequency file: a word, a tab and a number a line; words are case-folded, repeated ones summed.

    Raises:
        DataError: naming the lines that are none of these.
    """
    problems = Problems()
    try:
        data = read_bytes(path)
    except UNREADABLE as error:
        raise DataError(f"{path}: can't be read ({error}); give an existing file") from None
    counts: dict[str, float] = {}
    for number, line in numbered_lines(path, data, problems):
        word, _, count = line.partition("\t")
        try:
            value = float(count)
        except ValueError:
            value = math.nan
        if 0 <= value < math.inf:
            counts[word.casefold()] = counts.get(word.casefold(), 0.0) + value
        else:
            problems.add(f"{path}:{number}: write a word, a tab and its frequency")
    problems.raise_if_any()
    return counts


def frequency_bands(counts: Mapping[str, float], edges: Sequence[int]) -> tuple[dict[str, str], list[str]]:
    """Return the band of each counted word, and the names of all bands: ranks like 101-1000, and "uncounted".

    Words of equal frequency are ranked by the alphabet.
    """
    firsts = [1, *(edge + 1 for edge in edges)]
    names = [f"{first}-{edge}" for first, edge in zip(firsts, edges, strict=False)] + [f"{firsts[-1]}-"]
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    bands = {word: names[bisect_left(edges, rank)] for rank, word in enumerate(ranked, start=1)}
    return bands, [*names, "uncounted"]
