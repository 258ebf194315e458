"""From raw dictionaries to a lexicon: read, normalise, check, filter, rank, merge, split, report."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_prealign.errors import DataError, Problems
from megatron_prealign.lexicon.filters import Dropped, filter_lexicon, keep_heaviest
from megatron_prealign.lexicon.frequency import measure_coverage, rank_translations
from megatron_prealign.lexicon.language_check import Identification, identify
from megatron_prealign.lexicon.lexicon import Lexicon, LexiconEntry, Translation
from megatron_prealign.lexicon.readers import LexiconFormat, parse_languages, read_pairs
from megatron_prealign.lexicon.reading import Pair
from megatron_prealign.text.documents import read_documents
from megatron_prealign.text.languages import expected_scripts
from megatron_prealign.text.spelling import uncapitalise, with_word_marks

# Soft hyphen, zero-width space, word joiner, byte order mark, direction marks: invisible, but they prevent matches.
_INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x2060, 0xFEFF, 0x200E, 0x200F, *range(0x202A, 0x202F)])
# The tatweel stretches Arabic letters; running text omits the vowel signs of Arabic and Hebrew.
_VOWEL_SIGNS = re.compile("[\u0640\u064b-\u0652\u0670\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
_WITHOUT_VOWEL_SIGNS = frozenset({"Arab", "Hebr"})
# A dictionary that capitalises this share of its headwords capitalises all.
_CAPITALISED_SHARE = 0.9
# Filters of faults; a dictionary in which one of them finds more than this share is rather misread or mistagged.
_FAULTS = ("identity", "script", "non_letters", "one_letter")
_ALARMING_SHARE = 0.5


@dataclass(frozen=True)
class DictionaryFile:
    """One dictionary and how to read it."""

    path: Path
    """The file; either of the two of dictd."""
    language: str | None = None
    """Language of its translations (a comma list for the authors' JSONL); None if its lines name theirs."""
    reverse: bool = False
    """Its translations are the words to translate: swap its pairs."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build."""

    files: tuple[DictionaryFile, ...]
    """Dictionaries, merged in this order."""
    source_language: str = "en"
    """Language of the source words."""
    file_format: LexiconFormat = "auto"
    """Format of all files; `auto` decides for each."""
    skip_bad_lines: bool = False
    """Skip and report malformed lines instead of refusing them."""
    check_languages: bool = True
    """Refuse files whose words are in another language than named."""
    filters: dict[str, Any] = field(default_factory=dict)
    """Arguments of `filter_lexicon`."""
    refuse_alarms: bool = False
    """Refuse dictionaries of which a filter drops most pairs of a language, instead of warning."""
    rank: bool = True
    """Weight translations by their frequency in running text."""
    max_translations: int | None = None
    """Translations kept of a word in each language, the heaviest; None for all."""
    min_languages: int = 1
    """Keep words with translations into at least this many languages."""
    held_out_ratio: float = 0.0
    """Share of source words in [0, 1) that are held out."""
    seed: int = 1
    """Seed of the choice of held-out words."""
    corpus_paths: tuple[Path, ...] = ()
    """Text in the source language to measure coverage on."""
    json_key: str = "text"
    """Key of the text in JSON lines."""


@dataclass(frozen=True)
class BuiltLexicon:
    """A lexicon and how it was built."""

    kept: Lexicon
    """For training."""
    held_out: Lexicon
    """For evaluation; empty if nothing is held out."""
    report: dict[str, Any]
    """Sizes, what each step dropped with examples, coverage: plain types."""
    warnings: list[str]
    """Skipped bad lines; filters that dropped most of a dictionary."""


def build_lexicon(options: BuildOptions) -> BuiltLexicon:
    """Build a lexicon from dictionaries.

    Raises:
        ConfigError: an option out of range, or a missing package.
        DataError: every malformed line (unless skipped), every file in another language than named, an unreadable
            corpus, every filter that drops most pairs of a language (if those are refused), or nothing left.
    """
    problems = Problems()
    lexicon, files = _read_all(options, problems)
    if not options.skip_bad_lines:
        problems.raise_if_any()
    if not lexicon.entries:
        raise DataError([*problems.shown, f"{_names(options)}: no word pair is left; check the files and the filters"])
    report: dict[str, Any] = {"files": files, "read": _sizes(lexicon)}
    lexicon, dropped = filter_lexicon(lexicon, **options.filters)
    report["warnings"] = _alarms(report["read"]["pairs_by_language"], dropped)
    if options.refuse_alarms and report["warnings"]:
        raise DataError(report["warnings"])
    if options.rank:
        lexicon, report["ranked_by"] = rank_translations(lexicon)
    if options.max_translations is not None:
        lexicon, dropped["max_translations"] = keep_heaviest(lexicon, options.max_translations)
    if options.min_languages > 1:
        lexicon, dropped["min_languages"] = _keep(
            lexicon, lambda entry: len({t.language for t in entry.translations}) >= options.min_languages
        )
    kept, held_out = lexicon.split(options.held_out_ratio, options.seed)
    if held_out.entries:
        # Entries of several words with a held-out word would show it in training.
        words = {entry.word.casefold() for entry in held_out.entries}
        kept, dropped["held_out_words"] = _keep(kept, lambda entry: words.isdisjoint(entry.word.casefold().split()))
    if not kept.entries:
        raise DataError("no word is left for training; lower --held-out-ratio or --min-languages")
    report["dropped"] = {name: {"pairs": found.count, "examples": found.examples} for name, found in dropped.items()}
    report |= {"kept": _sizes(kept), "held_out": _sizes(held_out)}
    report |= {"fingerprint": kept.fingerprint, "bad_lines": problems.count}
    if options.corpus_paths:
        report["coverage"] = _coverage(options, kept)
    warnings = [*(f"left out {problem}" for problem in problems.shown), *report["warnings"]]
    return BuiltLexicon(kept, held_out, report, warnings)


def normalize_word(word: str, language: str) -> str:
    """Return a word as in running text; empty if nothing is left.

    Unicode NFC, presentation forms and full-width letters as ordinary ones, without invisible characters, and in Arabic
    and Hebrew script without vowel signs and tatweel. Quotes inside Hebrew words become gershayim.
    """
    if word.isascii():
        return " ".join(word.split())
    text = word.translate(_INVISIBLE)
    if not unicodedata.is_normalized("NFKC", text):
        # Letters alone: ½ and ² would become digits.
        text = "".join(unicodedata.normalize("NFKC", c) if c.isalpha() else c for c in text)
    if not _WITHOUT_VOWEL_SIGNS.isdisjoint(expected_scripts(language) or ()):
        text = _VOWEL_SIGNS.sub("", unicodedata.normalize("NFC", text))
    return " ".join(with_word_marks(unicodedata.normalize("NFC", text)).split())


def normalize_pairs(pairs: Sequence[Pair], source_language: str) -> list[Pair]:
    """Normalise both words of each pair; pairs with an empty word are left out."""
    normalized = (
        (normalize_word(word, source_language), Translation(normalize_word(t.word, t.language), t.language, t.weight))
        for word, t in pairs
    )
    return [(word, translation) for word, translation in normalized if word and translation.word]


def lower_headwords(pairs: Sequence[Pair], language: str) -> tuple[list[Pair], bool]:
    """Write source words in lower case if the dictionary capitalises every headword; words in capitals (NATO) stay.

    Returns:
        The pairs, and whether they were changed.
    """
    cased = [word for word, _ in pairs if word[:1].lower() != word[:1].upper()]
    capitalised = sum(word[0].isupper() for word in cased)
    if not cased or capitalised < _CAPITALISED_SHARE * len(cased):
        return list(pairs), False
    lowered = [uncapitalise(word, language) for word, _ in pairs]
    return [(word if low[1:2].isupper() else low, t) for (word, t), low in zip(pairs, lowered, strict=True)], True


def _read_all(options: BuildOptions, problems: Problems) -> tuple[Lexicon, list[dict[str, Any]]]:
    """Read every file; return all pairs as one lexicon, and a summary of each file."""
    pairs: list[Pair] = []
    files: list[dict[str, Any]] = []
    mismatches: list[str] = []
    for file in options.files:
        languages = parse_languages(options.source_language, file.language, problems)
        found = read_pairs(file.path, languages, problems, options.file_format, file.reverse)
        normalized, is_lowered = lower_headwords(normalize_pairs(found, languages.source), languages.source)
        if options.check_languages:
            mismatches += _language_problems(file, languages.source, normalized)
        pairs += normalized
        files.append({"path": str(file.path), "pairs": len(found), "headwords_lowered": is_lowered})
    if mismatches:
        raise DataError([*problems.shown, *mismatches])
    return Lexicon.from_pairs(options.source_language, pairs), files


def _language_problems(file: DictionaryFile, source: str, pairs: Sequence[Pair]) -> list[str]:
    """Return the evidence for each side of a file that is in another language than named."""
    # Copies of the source word would look like the source language.
    words: dict[str, list[str]] = {}
    for word, translation in pairs:
        if word.casefold() != translation.word.casefold():
            words.setdefault(translation.language, []).append(translation.word)
    checked = {"source words": identify((word for word, _ in pairs), source)}
    checked |= {f"{language} translations": identify(found, language) for language, found in words.items()}
    return [
        f"{file.path}: its {side} are not in {found.language}: {found.describe()}; {_advice(side)}"
        for side, found in checked.items()
        if isinstance(found, Identification) and found.is_mismatch
    ]


def _advice(side: str) -> str:
    named = "--source-language" if side == "source words" else "--input LANGUAGE=FILE"
    return f"give the right one with {named}, reverse the file with --reverse-input, or pass --no-check-languages"


def _keep(lexicon: Lexicon, is_kept: Callable[[LexiconEntry], bool]) -> tuple[Lexicon, Dropped]:
    dropped = Dropped()
    for entry in lexicon.entries:
        for translation in () if is_kept(entry) else entry.translations:
            dropped.add(entry.word, translation)
    return Lexicon(lexicon.source_language, tuple(filter(is_kept, lexicon.entries))), dropped


def _alarms(read: dict[str, int], dropped: dict[str, Dropped]) -> list[str]:
    """Return a warning for each filter that drops most pairs of a language."""
    return [
        f"the filter {name.replace('_', '-')} dropped {count:,} of {read[language]:,} word pairs into {language} "
        f"({', '.join(dropped[name].examples[:2])}); look at the language tags (a script is named as in uz-cyrl), or "
        f"pass --no-{name.replace('_', '-')} if they are right"
        for name in _FAULTS
        if name in dropped
        for language, count in dropped[name].by_language.items()
        if count > _ALARMING_SHARE * read[language]
    ]


def _coverage(options: BuildOptions, lexicon: Lexicon) -> dict[str, Any]:
    problems = Problems()
    documents = read_documents(options.corpus_paths, options.json_key, problems)
    coverage = measure_coverage(lexicon, (document.text for document in documents))
    problems.raise_if_any()
    return coverage.to_json()


def _sizes(lexicon: Lexicon) -> dict[str, Any]:
    by_language = dict.fromkeys(lexicon.languages, 0)
    for _, translation in lexicon.pairs():
        by_language[translation.language] += 1
    return {"words": len(lexicon), "pairs": lexicon.num_pairs, "pairs_by_language": by_language}


def _names(options: BuildOptions) -> str:
    return ", ".join(str(file.path) for file in options.files)
