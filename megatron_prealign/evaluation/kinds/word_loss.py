"""Loss of whole words, separately for words in and outside a lexicon, and by frequency band.

A word is found on token ids, as code-switching finds it; in languages written without spaces each token of letters is
one. Its loss is the sum over its tokens, so that each word counts once, however it is tokenized.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt
from rich.table import Table

from megatron_prealign.codeswitch.token_classes import classify_vocabulary
from megatron_prealign.codeswitch.words import find_letter_tokens, find_words, token_flags
from megatron_prealign.errors import DataError, Problems
from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.frame import Evaluation, Paths, Progress, Results, cell, finite_exp, problems_of
from megatron_prealign.lexicon import Lexicon, normalize_language, read_lexicon, uses_spaces
from megatron_prealign.lexicon.reading import numbered_lines, read_bytes
from megatron_prealign.text.documents import read_languages
from megatron_prealign.text.tokenizer import Tokenizer

if TYPE_CHECKING:  # it imports torch
    from megatron_prealign.evaluation.scoring import ScoredDocument


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and how to group words."""

    texts: dict[str, Paths]
    """Files of documents by language: JSONL, or text with one document per line."""

    json_key: str = "text"
    """Key of the text in JSONL files."""

    window: PositiveInt | None = None
    """Input tokens at once; none = the sequence length of training."""

    lexicons: Paths = ()
    """Files of word pairs: words are grouped by whether these contain them, in the language of the text."""

    source_language: str = "en"
    """Language of the lexicons' source words."""

    target_language: str | None = None
    """Language of the translations, for lexicons that do not name it."""

    frequencies: dict[str, Paths] = field(default_factory=dict)
    """By language, a .tsv file of words and frequencies, or a corpus whose words are counted: words are grouped by
    frequency rank."""

    band_edges: tuple[PositiveInt, ...] = (100, 1000, 10000)
    """Last rank of each frequency band, in ascending order."""


def check(options: Options) -> list[str]:
    """Return what is wrong with texts, lexicons and frequencies."""
    problems = problems_of(lambda: read_languages(options.texts, options.json_key))
    languages = [normalize_language(language) for language in options.texts]
    if not options.lexicons and not options.frequencies:
        problems.append("words have no groups: give lexicons, frequencies or both")
    if options.lexicons:
        problems += problems_of(lambda: _lexicon_words(options, languages))
    counted = _by_language(options.frequencies)
    for language in languages if counted else ():
        if language not in counted:
            problems.append(f"frequencies does not name {language}: add it, or give {language} a task of its own")
    for paths in counted.values():
        problems += problems_of(partial(_read_frequencies, paths, options))
    if list(options.band_edges) != sorted(set(options.band_edges)):
        problems.append(f"band_edges is {list(options.band_edges)}: write ascending numbers, each once")
    return problems


def run(folder: ModelFolder, options: Options, progress: Progress) -> Results:
    """Return by language `by_lexicon` and `by_frequency`: for each group words, tokens, word_loss, word_perplexity."""
    from megatron_prealign.evaluation.scoring import score_documents

    all_texts = read_languages(options.texts, options.json_key)
    listed = _lexicon_words(options, list(all_texts)) if options.lexicons else {}
    counted = _by_language(options.frequencies)
    results: Results = {}
    for language, texts in all_texts.items():
        shown = partial(progress, part=language)
        documents = score_documents(folder, texts, window=options.window, progress=shown)
        finder = WordFinder(folder.tokenizer, language)
        words = word_losses(documents, finder)
        row = results[language] = {}
        if listed:
            inside = listed[language]
            group_of = {word: "listed" if word in inside else "unlisted" for word in words.words}
            row["by_lexicon"] = group_losses(words, group_of.__getitem__, ("listed", "unlisted"))
        if counted:
            bands, names = frequency_bands(_read_frequencies(counted[language], options, finder), options.band_edges)
            band_of = {word: bands.get(word, "uncounted") for word in words.words}
            row["by_frequency"] = group_losses(words, band_of.__getitem__, names)
    return results


def tables(name: str, results: Results) -> Iterator[Table]:
    """Yield a table with one row per group."""
    table = Table("language", "words", "number", "tokens per word", "loss", "perplexity", title=name)
    for language, row in results.items():
        for grouping in row.values():
            for group, values in grouping.items():
                count = values["words"]
                numbers = (values["tokens"] / count if count else None, values["word_loss"], values["word_perplexity"])
                table.add_row(language, group, f"{count:,}", *(cell(number, ".4g") for number in numbers))
    yield table


def _read_frequencies(paths: Paths, options: Options, finder: "WordFinder | None" = None) -> dict[str, float]:
    """Return the summed frequencies of all files; without a finder, texts are read but not counted."""
    counts: dict[str, float] = {}
    for path in paths:
        found: Mapping[str, float] = {}
        if Path(path).suffix == ".tsv":
            found = read_counts(Path(path))
        else:
            texts = read_languages({"": (path,)}, options.json_key)[""]
            if finder is not None:
                found = count_words(finder.tokenizer.encode_batch(texts), finder)
        for word, count in found.items():
            counts[word] = counts.get(word, 0.0) + count
    return counts


def _lexicon_words(options: Options, languages: list[str]) -> dict[str, frozenset[str]]:
    """Return the words that the lexicons have in each language."""
    lexicon = read_lexicon(options.lexicons, options.source_language, options.target_language)
    return lexicon_words(lexicon, languages)


def _by_language(paths: dict[str, Paths]) -> dict[str, Paths]:
    return {normalize_language(language): given for language, given in paths.items()}


def lexicon_words(lexicon: Lexicon, languages: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the words and phrases of a lexicon in each language, source or target.

    Raises:
        DataError: it has none in a language.
    """
    words: dict[str, set[str]] = {lexicon.source_language: {entry.word.casefold() for entry in lexicon.entries}}
    for _, translation in lexicon.pairs():
        words.setdefault(translation.language, set()).add(translation.word.casefold())
    if missing := [language for language in languages if language not in words]:
        raise DataError(
            f"the lexicons have no word in {', '.join(missing)}, only in {', '.join(words)}: "
            "give other languages a task of their own"
        )
    return {language: frozenset(words[language]) for language in languages}


def read_counts(path: Path) -> dict[str, float]:
    """Read a file with a word, a tab and a number per line; words are case-folded, repeated ones summed.

    Raises:
        DataError: names every other line.
    """
    problems = Problems()
    try:
        data = read_bytes(path)
    except OSError as error:
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
    """Return the band of each counted word, and the names of all bands: ranks such as 101-1000, and "uncounted".

    Words of equal frequency are ranked alphabetically.
    """
    firsts = [1, *(edge + 1 for edge in edges)]
    names = [f"{first}-{edge}" for first, edge in zip(firsts, edges, strict=False)] + [f"{firsts[-1]}-"]
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    bands = {word: names[bisect_left(edges, rank)] for rank, word in enumerate(ranked, start=1)}
    return bands, [*names, "uncounted"]


class WordFinder:
    """Finds the words of a language in token ids."""

    def __init__(self, tokenizer: Tokenizer, language: str) -> None:
        """Classify the vocabulary."""
        self.tokenizer = tokenizer
        self._vocabulary = classify_vocabulary(tokenizer.token_bytes, tokenizer.special_ids)
        self._find = find_words if uses_spaces(language) else find_letter_tokens

    def __call__(self, tokens: Sequence[int]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
        """Return the words of one document, case-folded, and where the tokens of each begin and end: [W], [W]."""
        ids = np.array(tokens, dtype=np.int64)
        offsets = np.array([0, len(ids)], dtype=np.int64)
        found = self._find(token_flags(self._vocabulary, ids, offsets), offsets)
        words = [self._text(tokens[start:stop]) for start, stop in zip(found.starts, found.stops, strict=True)]
        return words, found.starts, found.stops

    def _text(self, tokens: Sequence[int]) -> str:
        data = b"".join(self.tokenizer.token_bytes[token] for token in tokens)
        return data.decode("utf-8", errors="replace").strip(" ").casefold()


@dataclass(frozen=True)
class WordLosses:
    """Words of documents, those of which every token was predicted."""

    words: list[str]
    """Case-folded, in order."""
    losses: NDArray[np.float64]
    """Summed over the tokens of each word, in nats: [words]."""
    num_tokens: NDArray[np.int64]
    """Tokens of each word: [words]."""


def word_losses(documents: Iterable["ScoredDocument"], finder: WordFinder) -> WordLosses:
    """Return the losses of all words of scored documents."""
    words: list[str] = []
    losses: list[NDArray[np.float64]] = [np.empty(0)]
    num_tokens: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    for document in documents:
        found, starts, stops = finder(document.tokens)
        unscored = len(document.tokens) - len(document.losses)
        is_whole = starts >= unscored
        sums = np.concatenate(([0.0] * (unscored + 1), np.cumsum(document.losses.numpy())))
        words += [word for word, whole in zip(found, is_whole, strict=True) if whole]
        losses.append((sums[stops] - sums[starts])[is_whole])
        num_tokens.append((stops - starts)[is_whole])
    return WordLosses(words, np.concatenate(losses), np.concatenate(num_tokens))


def group_losses(found: WordLosses, group_of: Callable[[str], str], groups: Sequence[str]) -> dict[str, Results]:
    """Return words, tokens, word_loss (mean of a word, in nats) and word_perplexity of each group of words.

    Loss and perplexity are `None` in a group without words.
    """
    numbers = {group: number for number, group in enumerate(groups)}
    members = np.array([numbers[group_of(word)] for word in found.words], dtype=np.int64)
    results = {}
    for number, group in enumerate(groups):
        chosen = members == number
        count = int(chosen.sum())
        loss = float(found.losses[chosen].mean()) if count else math.nan
        results[group] = {
            "words": count,
            "tokens": int(found.num_tokens[chosen].sum()),
            "word_loss": loss if math.isfinite(loss) else None,
            "word_perplexity": finite_exp(loss),
        }
    return results


def count_words(documents: Iterable[Sequence[int]], finder: WordFinder) -> Counter[str]:
    """Count the words of documents given as token ids."""
    counts: Counter[str] = Counter()
    for tokens in documents:
        counts.update(finder(tokens)[0])
    return counts


EVALUATION = Evaluation(Options, check, run, tables)
