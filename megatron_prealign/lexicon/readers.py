"""Readers of dictionaries: canonical TSV, MUSE text and the two JSONL forms of the PreAlign authors."""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from megatron_prealign.errors import DataError
from megatron_prealign.lexicon.languages import normalize_language
from megatron_prealign.lexicon.lexicon import TSV_COLUMNS, Lexicon, Translation
from megatron_prealign.lexicon.problems import Problems

LexiconFormat = Literal["auto", "tsv", "muse", "jsonl"]

_LANGUAGE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# Cc: control characters; Cs: halves of surrogate pairs; Zl, Zp: line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

_Pair = tuple[str, Translation]


class _LineError(Exception):
    """What is wrong with one line; the caller knows where it is."""


def read_lexicon(
    paths: Sequence[str | Path],
    source_language: str,
    target_language: str | None = None,
    file_format: LexiconFormat = "auto",
) -> Lexicon:
    """Read dictionaries and merge them into one lexicon.

    Words are stripped and brought to Unicode NFC, the form that running text has; repeated pairs are kept once
    with their largest weight (see `Lexicon.from_pairs`).

    Args:
        paths: dictionary files in UTF-8; the order of words is the order of the files.
        source_language: language of the source words, for example `en`.
        target_language: language of translations whose line names none. For the authors' JSONL with several
            translations a line: a comma list, one language for each (`zh,fr`).
        file_format: `auto` decides for each file by its extension, then by its first line.

    Raises:
        DataError: every malformed line with file and line number (the first 20, and how many there are), missing
            files, or no word pair at all.
    """
    problems = Problems()
    default_languages = _languages(target_language, problems)
    source_languages = _languages(source_language, problems)
    if len(source_languages) != 1:
        problems.add(f"source language {source_language!r}: give one language, for example en")
    pairs: list[_Pair] = []
    for path in map(Path, paths):
        pairs.extend(_read_file(path, default_languages, file_format, problems))
    problems.raise_if_any()
    if not pairs:
        names = ", ".join(map(str, paths)) or "no file was given"
        raise DataError(f"the lexicon holds no word pair ({names})")
    return Lexicon.from_pairs(source_languages[0], pairs)


def _languages(text: str | None, problems: Problems) -> tuple[str, ...]:
    """Return the languages of a comma list."""
    languages = tuple(normalize_language(part) for part in text.split(",")) if text else ()
    for language in languages:
        if not _LANGUAGE.fullmatch(language):
            problems.add(f"{language!r} is not a language tag; write it like de or zh-hans")
    return languages


def _read_file(path: Path, languages: tuple[str, ...], file_format: LexiconFormat, problems: Problems) -> list[_Pair]:
    """Read one file; what is wrong with it goes to `problems`."""
    try:
        lines = list(_numbered_lines(path, problems))
    except OSError as error:
        problems.add(f"{path}: can't be read ({error.strerror}); give an existing dictionary file")
        return []
    if not lines:
        return []
    chosen = detect_format(path, lines[0][1]) if file_format == "auto" else file_format
    parse = _PARSERS[chosen]
    columns: tuple[str, ...] = TSV_COLUMNS
    if chosen == "tsv" and (header := _header(lines[0][1])):
        columns = header
        if unknown := set(columns) - set(TSV_COLUMNS):
            problems.add(f"{path}:1: unknown columns {sorted(unknown)}; the columns are {', '.join(TSV_COLUMNS)}")
            return []
        lines = lines[1:]
    if not languages and (chosen != "tsv" or "language" not in columns):
        problems.add(f"{path}: its lines name no language; give the target language")
        return []
    pairs: list[_Pair] = []
    for number, line in lines:
        try:
            pairs.extend(parse(line, columns, languages))
        except _LineError as error:
            problems.add(f"{path}:{number}: {error}")
    return pairs


def _numbered_lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines that hold something."""
    with open(path, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                problems.add(f"{path}:{number}: not UTF-8 at byte {error.start} of the line; convert the file to UTF-8")
                continue
            if line.strip():
                yield number, line


def detect_format(path: Path, first_line: str) -> Literal["tsv", "muse", "jsonl"]:
    """Decide a dictionary's format by its extension, else by its first line."""
    if path.suffix in (".jsonl", ".json") or first_line.lstrip().startswith("{"):
        return "jsonl"
    return "tsv" if path.suffix == ".tsv" or "\t" in first_line else "muse"


def _header(line: str) -> tuple[str, ...] | None:
    """Return the column names when the line is a header row."""
    columns = tuple(column.strip().lower() for column in line.split("\t"))
    return columns if {"source", "translation"} <= set(columns) and len(set(columns)) == len(columns) else None


def _parse_tsv(line: str, columns: tuple[str, ...], languages: tuple[str, ...]) -> list[_Pair]:
    """Parse `source, translation[, language[, weight]]`."""
    fields = line.split("\t")
    if not 2 <= len(fields) <= len(columns):
        raise _LineError(f"{len(fields)} tab-separated columns, expected {' '.join(columns)} (at least the first two)")
    row = dict(zip(columns, fields, strict=False))
    if not {"source", "translation"} <= row.keys():
        raise _LineError("the row ends before its source and translation columns")
    language = row.get("language", "").strip()
    try:
        weight = float(row["weight"]) if row.get("weight", "").strip() else 1.0
    except ValueError:
        raise _LineError(f"the weight {row['weight']!r} is not a number") from None
    return [_pair(row["source"], row["translation"], language or _single(languages), weight)]


def _parse_muse(line: str, columns: tuple[str, ...], languages: tuple[str, ...]) -> list[_Pair]:
    """Parse `source translation`, separated by a tab or by spaces."""
    fields = line.strip().split("\t") if "\t" in line else line.split()
    if len(fields) != 2:
        raise _LineError(f"{len(fields)} columns, expected a source word and a translation")
    return [_pair(fields[0], fields[1], _single(languages))]


def _parse_jsonl(line: str, columns: tuple[str, ...], languages: tuple[str, ...]) -> list[_Pair]:
    """Parse `{"words": "bank $ 银行 $ banque"}` or `{"src_text": ..., "tgt_text": ...}`."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _LineError(f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise _LineError(f"a JSON object was expected, not {type(record).__name__}")
    words, source_text, target_text = (record.get(key) for key in ("words", "src_text", "tgt_text"))
    if isinstance(words, str):
        source, *translations = words.split("$")
        if not translations:
            raise _LineError('"words" needs a source word and a translation, separated by $')
        return [
            _pair(source, translation, language)
            for translation, language in zip(translations, _spread(languages, len(translations)), strict=True)
        ]
    if isinstance(source_text, str) and isinstance(target_text, str):
        return [_pair(source_text, target_text, _single(languages))]
    raise _LineError('neither a text "words" nor texts "src_text" and "tgt_text"')


_PARSERS: dict[str, Callable[[str, tuple[str, ...], tuple[str, ...]], list[_Pair]]] = {
    "tsv": _parse_tsv,
    "muse": _parse_muse,
    "jsonl": _parse_jsonl,
}


def _single(languages: tuple[str, ...]) -> str:
    """Return the one default language."""
    if len(languages) != 1:
        given = ",".join(languages) or "none"
        raise _LineError(f"no language in the line, and the target language must be one for it (given: {given})")
    return languages[0]


def _spread(languages: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Return a language for each translation of a line; a single one holds for all."""
    if len(languages) == 1:
        return languages * count
    if len(languages) != count:
        raise _LineError(f"{count} translations for {len(languages)} target languages ({','.join(languages)})")
    return languages


def _pair(source: str, translation: str, language: str, weight: float = 1.0) -> _Pair:
    """Check and normalise one word pair."""
    tag = normalize_language(language)
    if not _LANGUAGE.fullmatch(tag):
        raise _LineError(f"{language!r} is not a language tag; write it like de or zh-hans")
    if not (math.isfinite(weight) and weight > 0):
        raise _LineError(f"the weight is {weight}; weights are positive and finite")
    return _word(source, "source word"), Translation(_word(translation, "translation"), tag, weight)


def _word(text: str, role: str) -> str:
    """Strip and normalise a word."""
    word = unicodedata.normalize("NFC", text.strip(" \t"))
    if not word:
        raise _LineError(f"the {role} is empty")
    for character in word:
        if unicodedata.category(character) in _FORBIDDEN_CATEGORIES or character == "\ufffd":
            raise _LineError(f"the {role} {word!a} holds U+{ord(character):04X}; remove the character")
    return word
