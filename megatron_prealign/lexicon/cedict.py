"""Readers of CC-CEDICT (Chinese-English) and EDICT (Japanese-English), whose lines end in /gloss/gloss/."""

import re
from collections.abc import Iterable, Iterator

from megatron_prealign.lexicon.glosses import split_glosses
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
    yield from _pairs([word], glosses, languages)


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
    yield from _pairs(split_glosses(chosen, ";", languages.source), glosses, languages)


def _pairs(words: Iterable[str], text: str, languages: Languages) -> Iterator[Pair]:
    english = languages.single_target()
    position = 0
    for sense in text.split("/"):
        for gloss in split_glosses(sense, ";,", english):
            if _EXPLANATION.match(gloss) or _EAST_ASIAN.search(gloss):
                continue
            position += 1
            for word in words:
                yield make_pair(word, gloss, english, 1.0 / position)
