"""The bytes of a text that the entries of a vocabulary stand for."""

import json
from typing import Any

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
