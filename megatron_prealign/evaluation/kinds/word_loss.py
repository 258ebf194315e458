"""Loss of whole words, apart for those that a lexicon has and has not, and by how frequent they are."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from megatron_prealign.errors import DataError, Problems
from megatron_prealign.evaluation.frame import Evaluation, Paths, Progress, Results, problems_of
from megatron_prealign.lexicon import Lexicon, normalize_language, read_lexicon
from megatron_prealign.lexicon.reading import numbered_lines, read_bytes
from megatron_prealign.text.documents import read_languages

if TYPE_CHECKING:
    from rich.table import Table

    from megatron_prealign.evaluation.folder import ModelFolder
    from megatron_prealign.evaluation.word_loss import WordFinder


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and how to group words."""

    texts: dict[str, Paths]
    """Files of documents by language: JSONL, or text with a document a line."""

    json_key: str = "text"
    """Key of the text in JSONL files."""

    window: PositiveInt | None = None
    """Input tokens at once; none = the length the model was trained on."""

    lexicons: Paths = ()
    """Files of word pairs: words are grouped by whether these have them, in the language of the text."""

    source_language: str = "en"
    """Language of the lexicons' source words."""

    target_language: str | None = None
    """Language of translations in lexicons that name none."""

    frequencies: dict[str, Paths] = field(default_factory=dict)
    """By language, a .tsv file of words and frequencies, or a corpus whose words are counted: words are grouped by
    their rank."""

    band_edges: tuple[PositiveInt, ...] = (100, 1000, 10000)
    """Last ranks of the bands of frequency, rising."""


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
            problems.append(f"frequencies has nothing for {language}: add it, or give {language} a task of its own")
    for paths in counted.values():
        problems += problems_of(partial(_check_frequencies, paths, options.json_key))
    if list(options.band_edges) != sorted(set(options.band_edges)):
        problems.append(f"band_edges is {list(options.band_edges)}: write numbers that rise")
    return problems


def run(folder: "ModelFolder", options: Options, progress: Progress) -> Results:
    """Return by language `by_lexicon` and `by_frequency`: for each group words, tokens, word_loss, word_perplexity."""
    from megatron_prealign.evaluation.perplexity import score_documents
    from megatron_prealign.evaluation.word_loss import WordFinder, group_losses, word_losses

    all_texts = read_languages(options.texts, options.json_key)
    listed = _lexicon_words(options, list(all_texts)) if options.lexicons else {}
    counted = _by_language(options.frequencies)
    results: Results = {}
    for language, texts in all_texts.items():
        told = partial(progress, part=language)
        documents = score_documents(folder, texts, window=options.window, progress=told)
        finder = WordFinder(folder.tokenizer, language)
        words = word_losses(documents, finder)
        row = results[language] = {}
        if listed:
            row["by_lexicon"] = group_losses(
                words, partial(_membership, words=listed[language]), ("listed", "unlisted")
            )
        if counted:
            band_of, names = _bands(counted[language], options, finder, folder)
            row["by_frequency"] = group_losses(words, band_of, names)
    return results


def tables(name: str, results: Results) -> "Iterator[Table]":
    """Yield a table with a row a group."""
    from rich.table import Table

    table = Table("language", "words", "number", "tokens a word", "loss", "perplexity", title=name)
    for language, row in results.items():
        for grouping in row.values():
            for group, values in grouping.items():
                table.add_row(language, group, *_cells(values))
    yield table


def _cells(values: dict[str, Any]) -> list[str]:
    per_word = values["tokens"] / values["words"] if values["words"] else None
    numbers = (per_word, values["word_loss"], values["word_perplexity"])
    return [f"{values['words']:,}", *("-" if number is None else f"{number:.4g}" for number in numbers)]


def _membership(word: str, words: frozenset[str]) -> str:
    return "listed" if word in words else "unlisted"


def _bands(
    paths: Paths, options: Options, finder: "WordFinder", folder: "ModelFolder"
) -> tuple[Callable[[str], str], list[str]]:
    """Return what finds a word's band, and the bands' names."""
    from megatron_prealign.evaluation.word_loss import count_words

    counts: dict[str, float] = {}
    for path in paths:
        if Path(path).suffix == ".tsv":
            found: dict[str, float] = read_counts(Path(path))
        else:
            texts = read_languages({"": (path,)}, options.json_key)[""]
            found = dict(count_words(folder.tokenizer.encode_batch(texts), finder))
        for word, count in found.items():
            counts[word] = counts.get(word, 0.0) + count
    bands, names = frequency_bands(counts, options.band_edges)
    return lambda word: bands.get(word, "uncounted"), names


def _lexicon_words(options: Options, languages: list[str]) -> dict[str, frozenset[str]]:
    """Return the words that the lexicons have in each language."""
    lexicon = read_lexicon(options.lexicons, options.source_language, options.target_language)
    return lexicon_words(lexicon, languages)


def _check_frequencies(paths: Paths, json_key: str) -> None:
    for path in paths:
        if Path(path).suffix == ".tsv":
            read_counts(Path(path))
        else:
            read_languages({"": (path,)}, json_key)


def _by_language(paths: dict[str, Paths]) -> dict[str, Paths]:
    return {normalize_language(language): given for language, given in paths.items()}


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
    """Return the band of each counted word, and the names of all bands: ranks like 101-1000, and "uncounted".

    Words of equal frequency are ranked by the alphabet.
    """
    firsts = [1, *(edge + 1 for edge in edges)]
    names = [f"{first}-{edge}" for first, edge in zip(firsts, edges, strict=False)] + [f"{firsts[-1]}-"]
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    bands = {word: names[bisect_left(edges, rank)] for rank, word in enumerate(ranked, start=1)}
    return bands, [*names, "uncounted"]


EVALUATION = Evaluation(Options, check, run, tables)
