"""From the explanations of printed dictionaries to words: annotations go, alternatives are told apart."""

import re

# Usage, grammar, fields: (of a river), [fin.], {f}, <masc>, and pronunciation /bank/; brackets may be nested once.
_ROUND = re.compile(r"\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\]|\{[^{}]*\}")
_ANGLE = re.compile(r"<[^<>]*>")
_PRONUNCIATION = re.compile(r"(?<!\S)//?[^/\s][^/]*//?(?!\S)")
_PLACEHOLDERS = re.compile(r"(?<!\w)(?:sth|sb|etw|jdn|jdm|jds|jmdn|jmdm)\.(?:'s)?(?!\w)|(?<!\w)(?:sb|sth)(?!\w)")
_ENGLISH_LEAD = re.compile(r"^(?:to|a|an|the) (?=\S)")
# Control characters where Windows has dashes and quotes: files that were converted as Latin-1.
_WINDOWS = {code: bytes([code]).decode("cp1252", errors="replace") for code in range(0x80, 0xA0)}
_QUOTES = "\"'“”„«»‘’"


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
