"""Readers of dictionaries made for people: CC-CEDICT (Chinese-English), EDICT (Japanese-English), Ding word lists.

Explanations become words: annotations go, alternatives are told apart.
"""

import re
from collections.abc import Iterable, Iterator

from megatron_prealign.lexicon.reading import Languages, LineError, Pair, make_pair
from megatron_prealign.text.languages import is_traditional_chinese

CEDICT_LINE = re.compile(r"(\S+) (\S+) \[([^\]]*)\] /(.*)/\s*")
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


def parse_cedict(line: str, languages: Languages) -> Iterator[Pair]:
    """Yield the pairs of `Traditional Simplified [pin1 yin1] /gloss/gloss; gloss/`.

    Words are simplified, or traditional where the tag of Chinese says so (zh-hant, zh-tw); the k-th gloss of an
    entry has the weight 1 / k.

    Raises:
        LineError: the line has another form.
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

    The reading stands for the word where the entry says that it usually does; the k-th gloss weighs 1 / k.

    Raises:
        LineError: the line has another form.
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
    k-th synonym has the weight 1 / max(j, k). A form without its match on the other side is left out.

    Raises:
        LineError: the line has not exactly two sides.
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
    """Return the words or phrases of one explanation, in order, without repeats and without those that have no letter.

    Args:
        text: for example `bank (of a river) [geogr.], shore`.
        separators: characters that stand between alternatives.
        language: of the words; English ones lose a leading `to`, `a`, `an`, `the`, which running text does not
            repeat with the word.
    """
    text = _PRONUNCIATION.sub(" ", _ROUND.sub(" ", text.translate(_WINDOWS)))
    # A grammar mark ends its word; some dictionaries put nothing else between two of them.
    text = _ANGLE.sub(separators[0], text)
    pieces = (_clean(piece, language) for piece in re.split(f"[{re.escape(separators)}]", text))
    return list(dict.fromkeys(piece for piece in pieces if any(map(str.isalpha, piece))))


def _clean(piece: str, language: str) -> str:
    word = " ".join(_PLACEHOLDERS.sub(" ", piece).split()).strip(_QUOTES + " ")
    return _ENGLISH_LEAD.sub("", word) if language.partition("-")[0] in ("en", "eng") else word


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
