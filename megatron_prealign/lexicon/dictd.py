"""Reader of dictd dictionaries as FreeDict makes them: a `.index` beside a `.dict` or `.dict.dz`.

A line of the index is `headword TAB offset TAB length`, both numbers in base 64. An article is a line with the
headword and its pronunciation, then the translations: at the margin, one numbered line a sense, perhaps with a
definition below it. Examples, notes and references are indented or begin with `see:`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from megatron_prealign.errors import Problems
from megatron_prealign.lexicon.glosses import split_glosses, strip_annotations
from megatron_prealign.lexicon.reading import (
    Languages,
    LineError,
    Pair,
    make_pair,
    numbered_lines,
    read_bytes,
)

_DIGITS = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
# Entries about the dictionary itself, as dictfmt names them with and without --allchars.
_ABOUT = re.compile(r"00-?database")
_SENSE = re.compile(r"^ ?\d+\.\s*")
_NEXT_SENSE = re.compile(r"(?: \d+\.)+$")


def is_dictd(path: Path) -> bool:
    """Tell whether a path is one of a dictd dictionary's two files."""
    return path.name.endswith((".index", ".dict.dz")) or (
        path.suffix == ".dict" and path.with_suffix(".index").exists()
    )


def read_dictd(path: Path, languages: Languages, problems: Problems) -> Iterator[Pair]:
    """Yield the word pairs of a dictionary; an article's k-th translation has the weight 1 / k.

    Args:
        path: either file: `freedict-eng-deu.index` or `freedict-eng-deu.dict.dz`.
        languages: of headwords and translations.
        problems: takes bad lines of the index, those that name a bad article included.
    """
    base = str(path).removesuffix(".dz").removesuffix(".index").removesuffix(".dict")
    index_path = Path(f"{base}.index")
    packed, plain = Path(f"{base}.dict.dz"), Path(f"{base}.dict")
    index = _content(index_path, problems)
    articles = _content(packed if packed.exists() or not plain.exists() else plain, problems)
    if index is None or articles is None:
        return
    for number, line in numbered_lines(index_path, index, problems):
        if _ABOUT.match(line):
            continue
        try:
            # All pairs of an article or none; it names its headword itself, so variants that share it add nothing.
            yield from list(_pairs(_article(line, articles), languages))
        except LineError as error:
            problems.add(f"{index_path}:{number}: {error}")


def _content(path: Path, problems: Problems) -> bytes | None:
    try:
        return read_bytes(path)
    except OSError as error:
        problems.add(f"{path}: can't be read ({error}); a dictd dictionary is an .index beside a .dict or .dict.dz")
        return None


def _article(line: str, articles: bytes) -> str:
    """Return the article that an index line names."""
    fields = line.split("\t")
    if len(fields) not in (3, 4):  # the fourth is the headword before dictfmt simplified it
        raise LineError(f"{len(fields)} tab-separated columns, expected headword, offset and length")
    offset, length = _number(fields[1]), _number(fields[2])
    if offset + length > len(articles):
        raise LineError(f"its article ends at byte {offset + length}, the dictionary has {len(articles)}")
    try:
        return articles[offset : offset + length].decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(f"its article is not UTF-8 at byte {error.start}") from None


def _number(text: str) -> int:
    """Return a number written in base 64, most significant digit first."""
    value = 0
    for character in text:
        if character not in _DIGITS:
            raise LineError(f"{text!r} is not a number in base 64")
        value = value * 64 + _DIGITS[character]
    return value


def _pairs(article: str, languages: Languages) -> Iterator[Pair]:
    headword_line, *lines = article.split("\n")
    headword = strip_annotations(headword_line)
    target = languages.single_target()
    margin = [line for line in lines if line.strip() and not line.startswith(("  ", " see:"))]
    # What follows a translation without a number of its own is a definition in the language of the headword.
    senses = [line for place, line in enumerate(margin) if place == 0 or _SENSE.match(line)]
    position = 0
    for sense in senses if headword else ():
        for gloss in split_glosses(_NEXT_SENSE.sub("", _SENSE.sub("", sense)), ",;", target):
            position += 1
            yield make_pair(headword, gloss, target, 1.0 / position)
