"""Lines of dictionaries as checked word pairs, and formats that are tables: TSV, CSV, MUSE, JSONL of PreAlign."""

import csv
import json
import math
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

from megatron_prealign.errors import Problems
from megatron_prealign.lexicon.lexicon import Translation
from megatron_prealign.text.files import open_corpus, reading_errors
from megatron_prealign.text.languages import is_language, normalize_language, primary_language

Pair = tuple[str, Translation]
Columns = tuple[str, ...]

# Cc: control characters; Cs: halves of surrogate pairs; Zl, Zp: line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_NO_SEPARATORS = bytes(set(range(256)) - set(b"\t\n"))


class LineError(Exception):
    """What is wrong with one line; the caller knows its place."""


@dataclass(frozen=True)
class Languages:
    """The languages of the two sides of a file, given by the caller."""

    source: str
    """Language of the lexicon's source words."""

    targets: tuple[str, ...]
    """Languages of translations if the file names none: one, or one for each translation of a line."""

    def single_target(self) -> str:
        """Return the one default language, or raise a LineError."""
        if len(self.targets) != 1:
            given = ",".join(self.targets) or "none"
            raise LineError(f"the line names no language; give exactly one target language (given: {given})")
        return self.targets[0]


@lru_cache(maxsize=1024)
def language_tag(language: str) -> str:
    """Return a language tag normalised, or raise a LineError."""
    tag = normalize_language(language)
    if not is_language(tag):
        raise LineError(f"{language!r} is not a language tag; write it like de or zh-hans")
    return tag


def read_bytes(path: Path) -> bytes:
    """Return a file's content, decompressed if its name ends in .gz, .dz or .zst; UTF-16 as UTF-8.

    Raises:
        OSError: It can't be read, or is damaged.
    """
    try:
        with open_corpus(path) as stream:
            data = stream.read()
        return data.decode("utf-16").encode() if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else data
    except UnicodeDecodeError as error:
        raise OSError(f"not UTF-16 at byte {error.start}, as its first bytes say") from None
    except OSError:
        raise
    except reading_errors() as error:
        raise OSError(str(error)) from None


def numbered_lines(path: Path, data: bytes, problems: Problems, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the non-blank lines; undecodable ones go to `problems`."""
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            line = raw.decode(encoding).rstrip("\r")
        except UnicodeDecodeError as error:
            name = encoding.upper()
            problems.add(f"{path}:{number}: not {name} at byte {error.start} of the line; convert the file to UTF-8")
            continue
        if line.strip():
            yield number, line


def parse_lines(
    path: Path,
    lines: Iterable[tuple[int, str]],
    parse: Callable[[str, Languages], Iterable[Pair]],
    languages: Languages,
    problems: Problems,
) -> Iterator[Pair]:
    """Yield the pairs of numbered lines: all pairs of a line, or none of one with a LineError, which is a problem."""
    for number, line in lines:
        try:
            yield from tuple(parse(line, languages))
        except LineError as error:
            problems.add(f"{path}:{number}: {error}")


def make_pair(source: str, translation: str, language: str, weight: float = 1.0) -> Pair:
    """Check and normalise one word pair; raise a LineError for an impossible language, weight or word."""
    tag = language_tag(language)
    if not (math.isfinite(weight) and weight > 0):
        raise LineError(f"the weight is {weight}; weights are positive and finite")
    return _word(source, "source word"), Translation(_word(translation, "translation"), tag, weight)


def _word(text: str, role: str) -> str:
    """Strip and normalise a word."""
    word = text.strip(" \t")
    if not word.isascii():
        word = unicodedata.normalize("NFC", word)
    if not word:
        raise LineError(f"the {role} is empty")
    if word.isprintable() and "\ufffd" not in word:  # fast; the characters below are not printable
        return word
    for character in word:
        if unicodedata.category(character) in _FORBIDDEN_CATEGORIES or character == "\ufffd":
            raise LineError(f"the {role} {word!a} contains U+{ord(character):04X}; remove the character")
    return word


def split_row(line: str, separator: str) -> list[str]:
    """Return the fields of a row, or raise a LineError; quotes have a meaning in CSV alone."""
    if separator == "\t":
        return line.split("\t")
    try:
        (fields,) = csv.reader([line], delimiter=separator, strict=True)
    except (csv.Error, ValueError) as error:
        raise LineError(f"not a row of CSV ({error})") from None
    return fields


def header_columns(fields: list[str], languages: Languages) -> Columns | None:
    """Return the column names if the row is a header; it may name the two languages instead."""
    columns = tuple(field.strip().lower() for field in fields)
    if len(columns) == 2 and len(languages.targets) == 1:
        sides = {primary_language(languages.source): "source", primary_language(languages.targets[0]): "translation"}
        columns = tuple(sides.get(primary_language(column), column) for column in columns)
    return columns if {"source", "translation"} <= set(columns) and len(set(columns)) == len(columns) else None


def parse_row(fields: list[str], places: Mapping[str, int], languages: Languages) -> Pair:
    """Return the pair of `source, translation[, language[, weight]]`, or raise a LineError.

    Args:
        fields: of one row.
        places: the column of each name.
        languages: of the lexicon.
    """
    num_fields = len(fields)
    if not 2 <= num_fields <= len(places):
        raise LineError(f"{num_fields} columns, expected {' '.join(places)} (at least the first two)")
    if max(places["source"], places["translation"]) >= num_fields:
        raise LineError("the row ends before its source and translation columns")
    language, weight = _field(fields, places.get("language")), _field(fields, places.get("weight"))
    try:
        number = float(weight) if weight else 1.0
    except ValueError:
        raise LineError(f"the weight {weight!r} is not a number") from None
    source, translation = fields[places["source"]], fields[places["translation"]]
    return make_pair(source, translation, language or languages.single_target(), number)


def _field(fields: list[str], place: int | None) -> str:
    return fields[place].strip() if place is not None and place < len(fields) else ""


def read_clean_columns(text: str, columns: Columns, languages: Languages) -> list[Pair] | None:
    """Return the pairs of tab-separated rows without a header, like `parse_row`, but three times as fast.

    Returns:
        None if a row has a flaw, or something to normalise.
    """
    rows = text.removesuffix("\n")
    width = rows.partition("\n")[0].count("\t") + 1
    flat = rows.replace("\n", "\t").split("\t")
    num_rows = len(flat) // width
    separators = f"{rows}\n".encode().translate(None, _NO_SEPARATORS)
    if separators != (b"\t" * (width - 1) + b"\n") * num_rows or width > len(columns) or not all(flat):
        return None
    given = {name: flat[place::width] for place, name in enumerate(columns[:width])}
    try:
        tags = {tag: language_tag(tag) for tag in set(given.get("language") or [languages.single_target()])}
        weights = list(map(float, given.get("weight") or ["1"] * num_rows))
    except (ValueError, LineError):
        return None
    if not {"source", "translation"} <= given.keys():
        return None
    sources, translations = given["source"], given["translation"]
    words = "\n".join(chain(sources, translations))
    is_clean = (
        words.replace("\n", "").isprintable()
        and "\ufffd" not in words
        and not any(edge in f"\n{words}\n" for edge in ("\n ", " \n"))
        and unicodedata.is_normalized("NFC", words)
        and min(weights) > 0
        and math.isfinite(sum(weights))
    )
    if not is_clean:
        return None
    tagged = map(tags.__getitem__, given.get("language") or [*tags] * num_rows)
    return list(zip(sources, map(Translation, translations, tagged, weights), strict=True))


def parse_muse(line: str, languages: Languages) -> Iterator[Pair]:
    """Yield the pair of `source translation`, separated by a tab or spaces."""
    fields = line.strip().split("\t") if "\t" in line else line.split()
    if len(fields) != 2:
        raise LineError(f"{len(fields)} columns, expected a source word and a translation")
    yield make_pair(fields[0], fields[1], languages.single_target())


def parse_jsonl(line: str, languages: Languages) -> Iterator[Pair]:
    """Yield the pairs of `{"words": "bank $ 银行 $ banque"}` or `{"src_text": ..., "tgt_text": ...}`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LineError(f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise LineError(f"expected a JSON object, not {type(record).__name__}")
    words, source_text, target_text = (record.get(key) for key in ("words", "src_text", "tgt_text"))
    if isinstance(words, str):
        source, *translations = words.split("$")
        if not translations:
            raise LineError('"words" needs a source word and a translation, separated by $')
        for translation, language in zip(translations, _spread(languages.targets, len(translations)), strict=True):
            yield make_pair(source, translation, language)
    elif isinstance(source_text, str) and isinstance(target_text, str):
        yield make_pair(source_text, target_text, languages.single_target())
    else:
        raise LineError('neither a text "words" nor texts "src_text" and "tgt_text"')


def _spread(targets: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Return a language for each translation of a line; a single one applies to all."""
    if len(targets) == 1:
        return targets * count
    if len(targets) != count:
        raise LineError(f"{count} translations for {len(targets)} target languages ({','.join(targets)})")
    return targets
