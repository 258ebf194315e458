"""Readers of dictionaries in any known format, alone or several into one lexicon."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from megatron_prealign.errors import DataError, Problems
from megatron_prealign.lexicon.glosses import (
    CEDICT_LINE,
    EDICT_LINE,
    is_dictd,
    is_stardict,
    parse_cedict,
    parse_ding,
    parse_edict,
    read_dictd,
)
from megatron_prealign.lexicon.lexicon import TSV_COLUMNS, Lexicon, Translation
from megatron_prealign.lexicon.reading import (
    Columns,
    Languages,
    LineError,
    Pair,
    header_columns,
    numbered_lines,
    parse_jsonl,
    parse_lines,
    parse_muse,
    parse_row,
    read_bytes,
    read_clean_columns,
    split_row,
)
from megatron_prealign.text.languages import is_language, normalize_language, primary_language
from megatron_prealign.text.ragged import paused_collector

LexiconFormat = Literal["auto", "tsv", "csv", "muse", "jsonl", "dictd", "cedict", "edict", "ding"]
FORMATS: tuple[str, ...] = get_args(LexiconFormat)

_PARSERS: dict[str, Callable[[str, Languages], Iterator[Pair]]] = {
    "muse": parse_muse,
    "jsonl": parse_jsonl,
    "cedict": parse_cedict,
    "edict": parse_edict,
    "ding": parse_ding,
}
# Formats of a single dictionary, by the language of its headwords.
_HEADWORD_LANGUAGES = {"cedict": ("zh", "yue"), "edict": ("ja",)}
_BOM = b"\xef\xbb\xbf"
# Formats of other programs, by the bytes at their beginning.
_FOREIGN_FORMATS = {
    rb"(?:\s|<[?!][^>]*>)*<tmx\b": "TMX, a translation memory",
    rb"(?:\s|<[?!][^>]*>)*<dictionary\b": "a dictionary of Apertium",
    rb"\s*<[?!]": "XML",
    rb"StarDict's ": "a dictionary of StarDict",
    rb"SQLite format 3": "a database of SQLite",
    rb"PK\x03\x04": "a ZIP archive or spreadsheet",
    rb"%PDF": "PDF",
    rb"[^\n]{0,4096}\x00": "binary",
}
_SNIFFED = 1 << 16  # bytes; licences are comments before the first entry


@paused_collector()
def read_lexicon(
    paths: Sequence[str | Path],
    source_language: str,
    target_language: str | None = None,
    file_format: LexiconFormat = "auto",
    reverse: bool = False,
) -> Lexicon:
    """Read dictionaries and merge them into one lexicon.

    Words are stripped and normalised to Unicode NFC, the form of running text; repeated pairs are kept once, with their
    largest weight (see `Lexicon.from_pairs`).

    Args:
        paths: dictionary files; the order of words is the order of the files.
        source_language: language of the source words, for example `en`.
        target_language: language of translations whose line names none. For the authors' JSONL with several
            translations per line: a comma list, one language for each (`zh,fr`).
        file_format: `auto` decides for each file by its name, then by its first line.
        reverse: the files' translations are words of the source language; swap their pairs.

    Raises:
        DataError: every malformed line with file and line number (the first 20, and their number), missing files, or
            no word pair.
    """
    problems = Problems()
    languages = parse_languages(source_language, target_language, problems)
    pairs = [pair for path in map(Path, paths) for pair in read_pairs(path, languages, problems, file_format, reverse)]
    problems.raise_if_any()
    if not pairs:
        names = ", ".join(map(str, paths)) or "no file given"
        raise DataError(f"the lexicon has no word pair ({names})")
    return Lexicon.from_pairs(languages.source, pairs)


def parse_languages(source: str, targets: str | None, problems: Problems) -> Languages:
    """Return the languages of a dictionary, `targets` being one or a comma list; wrong tags go to `problems`."""
    sources = tuple(normalize_language(part) for part in source.split(","))
    given = tuple(normalize_language(part) for part in targets.split(",")) if targets else ()
    if len(sources) != 1 or not sources[0]:
        problems.add(f"source language {source!r}: give one language, for example en")
    for language in (*sources, *given):
        if language and not is_language(language):
            problems.add(f"{language!r} is not a language tag; write it like de or zh-hans")
    return Languages(sources[0], given)


def read_pairs(
    path: Path, languages: Languages, problems: Problems, file_format: LexiconFormat = "auto", reverse: bool = False
) -> list[Pair]:
    """Read one dictionary; everything wrong goes to `problems` as `path:line: problem`, and bad lines give no pair.

    Arguments are those of `read_lexicon`; CC-CEDICT and EDICT are reversed automatically if the source is the language
    of their glosses.
    """
    if is_dictd(path) and file_format in ("auto", "dictd") and not is_stardict(path):
        return _read(path, languages, reverse, problems, lambda given: read_dictd(path, given, problems))
    try:
        data = read_bytes(path)
    except OSError as error:
        reason = error.strerror or error
        problems.add(f"{path}: can't be read ({reason}); give an existing dictionary file")
        return []
    if foreign := "a dictionary of StarDict" if is_stardict(path) else _foreign_format(data):
        problems.add(f"{path}: {foreign}, which is not read; convert it to TSV with the columns source, translation")
        return []
    chosen = detect_format(path, data) if file_format == "auto" else file_format
    if chosen == "dictd":
        problems.add(f"{path}: give the .index or the .dict.dz of a dictd dictionary")
        return []
    if natives := _HEADWORD_LANGUAGES.get(chosen):
        named = _name_both(languages, natives)
        if named is None:
            problems.add(
                f"{path}: a dictionary of {natives[0]}; give this language on one side, and on the other that of its "
                "glosses (English in the original)"
            )
            return []
        languages, reverse = named
    if chosen == "tsv" and not reverse and (clean := _read_clean_table(data, languages)):
        return clean
    lines = list(numbered_lines(path, data, problems, _encoding(data) if chosen == "edict" else "utf-8"))
    parse = _PARSERS.get(chosen)
    if parse is None:
        return _read_table(path, lines, "\t" if chosen == "tsv" else ",", languages, reverse, problems)
    return _read(path, languages, reverse, problems, lambda given: parse_lines(path, lines, parse, given, problems))


def detect_format(path: Path, data: bytes) -> str:
    """Decide a dictionary's format by its extension, or by its first line that is no comment."""
    suffixes = {suffix.lower() for suffix in path.suffixes}
    if by_suffix := suffixes & {".jsonl", ".json", ".tsv", ".csv"}:
        return "jsonl" if by_suffix & {".jsonl", ".json"} else by_suffix.pop()[1:]
    # Latin-1 decodes any bytes, and the searched characters are ASCII.
    lines = (line.decode("latin-1").strip("\r") for line in data[:_SNIFFED].removeprefix(_BOM).split(b"\n"))
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    if first.lstrip().startswith("{"):
        return "jsonl"
    if CEDICT_LINE.fullmatch(first):
        return "cedict"
    if EDICT_LINE.fullmatch(first):
        return "edict"
    if " :: " in first:
        return "ding"
    return "tsv" if "\t" in first else "muse"


def _encoding(data: bytes) -> str:
    """Return the encoding of EDICT: EUC-JP as distributed, or UTF-8 if converted; that of fewer broken characters."""
    return min("utf-8", "euc_jp", key=lambda name: data.decode(name, "replace").count("\ufffd"))


def _name_both(languages: Languages, natives: tuple[str, ...]) -> tuple[Languages, bool] | None:
    """Return the languages for a dictionary from `natives` and whether to reverse it; None if they don't fit."""
    reverse = primary_language(languages.source) not in natives
    given = languages.targets or (natives[0] if reverse else "en",)
    if any((primary_language(tag) in natives) != reverse for tag in given):
        return None
    return Languages(languages.source, given), reverse


def _foreign_format(data: bytes) -> str | None:
    """Return the name of a format that has no reader."""
    start = data[:_SNIFFED].removeprefix(_BOM)
    return next((name for pattern, name in _FOREIGN_FORMATS.items() if re.match(pattern, start, re.DOTALL)), None)


def _read(
    path: Path, languages: Languages, reverse: bool, problems: Problems, read: Callable[[Languages], Iterable[Pair]]
) -> list[Pair]:
    """Return the pairs that `read` gives for the languages of the file's two sides, in the direction of the lexicon."""
    if not languages.targets:
        problems.add(f"{path}: no language in its lines; give the target language")
        return []
    if not reverse:
        return list(read(languages))
    if len(languages.targets) != 1:
        problems.add(f"{path}: to reverse it, give one target language, not {','.join(languages.targets)}")
        return []
    target = languages.targets[0]
    turned = read(Languages(target, (languages.source,)))
    return [(pair.word, Translation(word, target, pair.weight)) for word, pair in turned]


def _read_clean_table(data: bytes, languages: Languages) -> list[Pair] | None:
    """Return the pairs of a table without a flaw; None for others, which are read line by line."""
    try:
        text = data.removeprefix(_BOM).decode()
    except UnicodeDecodeError:
        return None
    first, _, rest = text.partition("\n")
    columns = header_columns(first.split("\t"), languages)
    if columns and not set(columns) <= set(TSV_COLUMNS):
        return None
    return read_clean_columns(rest if columns else text, columns or TSV_COLUMNS, languages)


def _read_table(
    path: Path, lines: list[tuple[int, str]], separator: str, languages: Languages, reverse: bool, problems: Problems
) -> list[Pair]:
    """Read rows of named columns, in the order of their header row or of the canonical TSV."""
    if not lines:
        return []
    columns = _header(lines[0][1], separator, languages, reverse)
    if columns and (unknown := set(columns) - set(TSV_COLUMNS)):
        problems.add(f"{path}:1: unknown columns {sorted(unknown)}; the columns are {', '.join(TSV_COLUMNS)}")
        return []
    order = columns or TSV_COLUMNS
    places = {name: place for place, name in enumerate(order)}

    def parse(line: str, given: Languages) -> Sequence[Pair]:
        pair = parse_row(split_row(line, separator), places, given)
        language = pair[1].language
        if reverse and language != languages.source:
            raise LineError(
                f"its translation is in {language}; in a reversed dictionary it must be in {languages.source}"
            )
        return (pair,)

    rows = lines[1:] if columns else lines
    if not languages.targets and "language" in order and not reverse:
        return list(parse_lines(path, rows, parse, languages, problems))
    return _read(path, languages, reverse, problems, lambda given: parse_lines(path, rows, parse, given, problems))


def _header(line: str, separator: str, languages: Languages, reverse: bool) -> Columns | None:
    turned = Languages(languages.targets[0], (languages.source,)) if reverse and languages.targets else languages
    try:
        return header_columns(split_row(line, separator), turned)
    except LineError:
        return None
