"""What a tokenizer.json says: how it splits a text, and the bytes that the entries of its vocabulary represent.

Names of regular expressions are those of the first model known for it; others use the same: Qwen2's is that of Qwen3,
Llama 3's of OLMo 2.
"""

import json
from collections.abc import Mapping
from typing import Any

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"

LLAMA_3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"
QWEN_2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"
QWEN_3_5 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_REST}"
)
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
GPT_4O = "|".join(
    (*(f"{part}{_CONTRACTIONS}?" for part in _CASED), r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", _REST)
)
DEEPSEEK_V3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
WITHOUT_CONTRACTIONS = r" ?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""Words with their leading space, single digits, runs of other characters, white space; of no published model. It names
no literal contractions ('s, 't), so English-Clone text is split alike; combining marks belong to their letters."""

_BEGIN_AT_SPACES = frozenset((LLAMA_3, QWEN_2, QWEN_3_5, GPT_4O, DEEPSEEK_V3, WITHOUT_CONTRACTIONS))
# GPT-2's expression is part of the step ByteLevel.
_PLAIN = (("isolated", False), ("removed", True))


def steps(definition: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """Return the steps of the `normalizer` or `pre_tokenizer` of a tokenizer.json, sequences unfolded."""
    return _unfolded(definition.get(part), "normalizers" if part == "normalizer" else "pretokenizers")


def is_plain_split(step: Mapping[str, Any]) -> bool:
    """Return whether a step makes every match of a regular expression a part, and what lies between them.

    The second spelling of that drops what lies between matches, of which known expressions leave nothing.
    """
    return (
        step["type"] == "Split"
        and "Regex" in step["pattern"]
        and (step["behavior"].lower(), bool(step.get("invert"))) in _PLAIN
    )


def begins_parts_at_spaces(definition: Mapping[str, Any]) -> bool:
    """Return whether a new part begins at each space between two characters that are not white space.

    It does where an expression of which only the first character of a match can be such a space matches every
    character; further steps only cut the parts.
    """
    splits = steps(definition, "pre_tokenizer")
    if not all(step["type"] in ("ByteLevel", "Digits") or is_plain_split(step) for step in splits):
        return False
    return any(
        step.get("use_regex", True) if step["type"] == "ByteLevel" else step["pattern"]["Regex"] in _BEGIN_AT_SPACES
        for step in splits
        if step["type"] != "Digits"
    )


def _unfolded(part: Mapping[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return (
        [step for child in part[name] for step in _unfolded(child, name)]
        if part["type"] == "Sequence"
        else [dict(part)]
    )


def splits_at_spaces(definition: dict[str, Any]) -> bool:
    """Return whether a tokenizer.json always begins a new part at a space between characters that are none."""
    if not all(step["type"] == "NFC" for step in steps(definition, "normalizer")):
        return False  # NFC joins nothing to a space; others may
    for token in definition["added_tokens"] or ():
        if any(map(str.isspace, token["content"])) or token.get("lstrip") or token.get("rstrip"):
            return False
    return begins_parts_at_spaces(definition)


SPACE_MARKER = "\N{LOWER ONE EIGHTH BLOCK}"


def _byte_level_alphabet() -> dict[str, int]:
    """Return GPT-2's mapping of printable characters to bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()
# The same for str.translate: Latin-1 has a character for each byte. Other characters of Latin-1 represent none.
_LATIN_1_OF = {code: "\u0100" for code in range(256)} | {ord(character): byte for character, byte in _BYTE_OF.items()}


def byte_level_bytes(token: str) -> bytes:
    """Return the bytes of an entry of a byte-level vocabulary."""
    try:
        return token.translate(_LATIN_1_OF).encode("latin-1")
    except UnicodeEncodeError:  # an entry that no text can produce, such as a placeholder
        return token.encode("utf-8")


def keeps_all_bytes(definition: dict[str, Any], vocabulary: dict[str, int]) -> bool:
    """Return whether a tokenizer.json drops nothing of a text and has a token for each byte."""
    splits = json.dumps(definition.get("pre_tokenizer"))
    return (
        (definition.get("normalizer") or {"type": "NFC"})["type"] == "NFC"
        and '"ByteLevel"' in splits
        and '"Removed"' not in splits
        and _BYTE_OF.keys() <= vocabulary.keys()
    )


def metaspace_bytes(token: str) -> bytes:
    """Return the bytes of a SentencePiece piece."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE_MARKER, " ").encode("utf-8")
