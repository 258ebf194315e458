"""Readers of dictionaries made for people: CC-CEDICT and its kin (Chinese), EDICT (Japanese), Ding, FreeDict.

Their explanations become words: annotations are removed and alternatives are separated.
"""

import re
from collections.abc import Iterable, Iterator
from os.path import splitext
from pathlib import Path

from megatron_prealign.errors import Problems
from megatron_prealign.lexicon.reading import (
    Languages,
    LineError,
    Pair,
    make_pair,
    numbered_lines,
    parse_lines,
    read_bytes,
)
from megatron_prealign.text.languages import is_traditional_chinese, primary_language

# Pinyin stands in one or two pairs of brackets, Jyutping in braces; CC-Canto ends lines with comments.
CEDICT_LINE = re.compile(r"(\S+) (\S+) \[\[?([^\]]*)\]\]?(?: \{[^}]*\})? /(.*)/\s*(?:#.*)?")
# Real files have entries that end before their first gloss.
EDICT_LINE = re.compile(r"(\S+)(?: \[([^\]]*)\])? /((?:.*/)?)\s*")

# Glosses that explain the entry instead of translating it.
_EXPLANATION = re.compile(
    r"CL:|lit\. |fig\. |abbr\. |(?:Taiwan )?pr\. |also (?:written|pr\.|called|known)|(?:\w+ )*variant of |EntL"
    r"|(?:surname|see|same as|used|equivalent|Kangxi|radical|interjection|particle|classifier) "
)
_EAST_ASIAN = re.compile(r"[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff|]")

# Usage, grammar, fields: (of a river), [fin.], {f}, <masc>, and pronunciation /bank/; brackets may be nested once.
_ROUND = re.compile(r"\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\]|\{[^{}]*\}")
_ANGLE = re.compile(r"<[^<>]*>")
_PRONUNCIATION = re.compile(r"(?<!\S)//?[^/\s][^/]*//?(?!\S)")
_PLACEHOLDERS = re.compile(r"(?<!\w)(?:sth|sb|etw|jdn|jdm|jds|jmdn|jmdm)\.(?:'s)?(?!\w)|(?<!\w)(?:sb|sth)(?!\w)")
_ENGLISH_LEAD = re.compile(r"^(?:to|a|an|the) (?=\S)")
# Control characters where Windows has dashes and quotes: files that were converted as Latin-1.
_WINDOWS = {code: bytes([code]).decode("cp1252", errors="replace") for code in range(0x80, 0xA0)}
_QUOTES = "\"'“”„«»‘’"

# dictd: digits of the index, entries about the dictionary itself (with and without --allchars), numbers of senses.
_BASE_64 = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
_ABOUT = re.compile(r"00-?database")
_SENSE = re.compile(r"^ ?\d+\.\s*")
_NEXT_SENSE = re.compile(r"(?: \d+\.)+$")
# Spellings of a Japanese headword, each with its pronunciation.
_SPELLING_END = re.compile(r"[,、]\s")
_KANA = re.compile(r"[\u3040-\u30ff]+")
_MOSTLY_KANA = "usually written using kana alone"


def parse_cedict(line: str, languages: Languages) -> Iterator[Pair]:
    """Yield the pairs of `Traditional Simplified [pin1 yin1] /gloss/gloss; gloss/`.

    HanDeDict, CFDICT and CC-Canto have the same format. Words are simplified, or traditional if the tag of Chinese says
    so (zh-hant, zh-tw, yue); the k-th gloss of an entry has the weight 1 / k.
    """
    if line.startswith("#"):
        return
    match = CEDICT_LINE.fullmatch(line)
    if match is None:
        raise LineError("not an entry of CC-CEDICT: Traditional Simplified [pin1 yin1] /gloss/gloss/")
    traditional, simplified, _, glosses = match.groups()
    word = traditional if is_traditional_chinese(languages.source) else simplified
    yield from _numbered([word], glosses, languages)


def parse_edict(line: str, languages: Languages) -> Iterator[Pair]:
    """Yield the pairs of `word [reading] /(n) gloss/gloss/`, also with EDICT2's several words and readings.

    The reading replaces the word if the entry says that it usually does; the k-th gloss has the weight 1 / k.
    """
    if line.startswith(("#", "\u3000")):  # the line that names the file begins with a wide space
        return
    match = EDICT_LINE.fullmatch(line)
    if match is None:
        raise LineError("not an entry of EDICT: word [reading] /gloss/gloss/")
    words, readings, glosses = match.groups()
    chosen = readings if readings and "(uk)" in glosses else words
    yield from _numbered(split_glosses(chosen, ";", languages.source), glosses, languages)


def parse_ding(line: str, languages: Languages) -> Iterator[Pair]:
    """Yield the pairs of `Bank {f}; Ufer {n} (Fluss) | Banken {pl} :: bank; shore | banks`.

    Every synonym of a form is paired with every synonym of the same form on the other side; a pair of the j-th and the
    k-th synonym has the weight 1 / max(j, k). A form without a match on the other side is left out.
    """
    if line.startswith("#"):
        return
    sides = line.split("::")
    if len(sides) != 2:
        raise LineError(f"{len(sides)} sides, expected two with :: between them")
    target = languages.single_target()
    for left, right in zip(*(side.split("|") for side in sides), strict=False):
        translations = split_glosses(right, ";", target)
        for j, word in enumerate(split_glosses(left, ";", languages.source), start=1):
            for k, translation in enumerate(translations, start=1):
                yield make_pair(word, translation, target, 1.0 / max(j, k))


def split_glosses(text: str, separators: str, language: str) -> list[str]:
    """Return the words or phrases of an explanation in order, without repeats and pieces without letters.

    Args:
        text: for example `bank (of a river) [geogr.], shore`.
        separators: characters between alternatives.
        language: of the words; English ones lose a leading `to`, `a`, `an`, `the`, which running text does not repeat
            with the word.
    """
    text = _PRONUNCIATION.sub(" ", _ROUND.sub(" ", text.translate(_WINDOWS)))
    # A grammar mark ends its word; some dictionaries have no other separator.
    text = _ANGLE.sub(separators[0], text)
    pieces = (_clean(piece, language) for piece in re.split(f"[{re.escape(separators)}]", text))
    return list(dict.fromkeys(piece for piece in pieces if any(map(str.isalpha, piece))))


def _clean(piece: str, language: str) -> str:
    word = " ".join(_PLACEHOLDERS.sub(" ", piece).split()).strip(_QUOTES + " ")
    return _ENGLISH_LEAD.sub("", word) if primary_language(language) == "en" else word


def strip_annotations(headword: str) -> str:
    """Return a headword without pronunciation, grammar and forms: `set sth. /sɛt/ (set) <v>` is `set`."""
    return " ".join(split_glosses(_ANGLE.sub(" ", headword), "\n", ""))


def _numbered(words: Iterable[str], text: str, languages: Languages) -> Iterator[Pair]:
    english = languages.single_target()
    position = 0
    for sense in text.split("/"):
        for gloss in split_glosses(sense, ";,", english):
            if _EXPLANATION.match(gloss) or _EAST_ASIAN.search(gloss):
                continue
            position += 1
            for word in words:
                yield make_pair(word, gloss, english, 1.0 / position)


def is_dictd(path: Path) -> bool:
    """Return whether a path is one of a dictd dictionary's two files."""
    return path.name.endswith((".index", ".dict.dz")) or (
        path.suffix == ".dict" and path.with_suffix(".index").exists()
    )


def is_stardict(path: Path) -> bool:
    """Return whether a path is one of a StarDict dictionary's files, which share endings with dictd's."""
    base, _ = splitext(str(path).removesuffix(".dz").removesuffix(".gz"))
    return path.suffix != ".ifo" and Path(f"{base}.ifo").exists()


def read_dictd(path: Path, languages: Languages, problems: Problems) -> Iterator[Pair]:
    """Yield the word pairs of a dictd dictionary as FreeDict makes them: a `.index` with a `.dict` or `.dict.dz`.

    A line of the index is `headword TAB offset TAB length`, both numbers in base 64. An article is a line with the
    headword and its pronunciation, then the translations: at the margin, one numbered line per sense, perhaps with a
    definition below it. Examples, notes and references are indented or begin with `see:`. The k-th translation of an
    article has the weight 1 / k.

    Args:
        path: either file: `freedict-eng-deu.index` or `freedict-eng-deu.dict.dz`.
        languages: of headwords and translations.
        problems: takes the bad lines of the index, including those that name a bad article.
    """
    base = str(path).removesuffix(".dz").removesuffix(".index").removesuffix(".dict")
    index_path = Path(f"{base}.index")
    packed, plain = Path(f"{base}.dict.dz"), Path(f"{base}.dict")
    index = _dictd_file(index_path, problems)
    articles = _dictd_file(packed if packed.exists() or not plain.exists() else plain, problems)
    if index is None or articles is None:
        return
    lines = (line for line in numbered_lines(index_path, index, problems) if not _ABOUT.match(line[1]))
    # An article names its headword itself, so variants that share it add nothing.
    yield from parse_lines(
        index_path, lines, lambda line, given: _article_pairs(_article(line, articles), given), languages, problems
    )


def _dictd_file(path: Path, problems: Problems) -> bytes | None:
    try:
        return read_bytes(path)
    except OSError as error:
        problems.add(f"{path}: can't be read ({error}); a dictd dictionary is an .index with a .dict or .dict.dz")
        return None


def _article(line: str, articles: bytes) -> str:
    """Return the article that an index line names."""
    fields = line.split("\t")
    if len(fields) not in (3, 4):  # the fourth is the headword before dictfmt simplified it
        raise LineError(f"{len(fields)} tab-separated columns, expected headword, offset and length")
    offset, length = _base_64(fields[1]), _base_64(fields[2])
    if offset + length > len(articles):
        raise LineError(f"its article ends at byte {offset + length}, the dictionary has {len(articles)}")
    try:
        return articles[offset : offset + length].decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(f"its article is not UTF-8 at byte {error.start}") from None


def _base_64(text: str) -> int:
    """Return a number written in base 64, most significant digit first."""
    value = 0
    for character in text:
        if character not in _BASE_64:
            raise LineError(f"{text!r} is not a number in base 64")
        value = value * 64 + _BASE_64[character]
    return value


def _article_pairs(article: str, languages: Languages) -> Iterator[Pair]:
    headword_line, *lines = article.split("\n")
    headwords = _headwords(headword_line, article, languages.source)
    target = languages.single_target()
    margin = [line for line in lines if line.strip() and not line.startswith(("  ", " see:"))]
    position = 0
    is_open = True  # whether the translations of a sense are still to come
    for line in margin if headwords else ():
        is_open |= _SENSE.match(line) is not None
        text = _NEXT_SENSE.sub("", _SENSE.sub("", line))
        glosses = split_glosses(text, ",;", target) if is_open else []
        # They may stand below a line of grammar. A line below them is a definition in the language of the headword.
        is_open &= bool(text.strip()) and not _ROUND.sub("", text).strip()
        for gloss in glosses:
            position += 1
            for headword in headwords:
                yield make_pair(headword, gloss, target, 1.0 / position)


def _headwords(line: str, article: str, language: str) -> list[str]:
    """Return the headword of an article; of a Japanese one its spellings, or its readings if it is written so."""
    if primary_language(language) != "ja":
        return [word] if (word := strip_annotations(line)) else []
    spelt = [part.partition(" /")[0] for part in _SPELLING_END.split(line)]
    words = split_glosses("\n".join(spelt), "\n", language)
    readings = [word for word in words if _KANA.fullmatch(word)]
    spellings = [word for word in words if word not in readings]
    return readings if _MOSTLY_KANA in article or not spellings else spellings
