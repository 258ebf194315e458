"""Random texts of what tokenizers disagree about, from a seed."""

import random
import unicodedata
from collections.abc import Iterator

from tests.checkpoint.languages import lines_of_ten_languages

_BLOCKS = (
    *((start, start + 0x80) for start in range(0x80, 0x3400, 0x80)),
    *((0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xA000, 0xABFF), (0xD7B0, 0xD7FF), (0xE000, 0xE0FF), (0xF900, 0xFFFF)),
    *((start, start + 0x100) for start in range(0x10000, 0x20000, 0x100)),
    *((0x20000, 0x2A6DF), (0x2F800, 0x2FA1F), (0x30000, 0x32400), (0xE0000, 0xE01FF), (0x10FF00, 0x10FFFF)),
)
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_SPELT = (
    *("<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|begin_of_text|>", "<think>", "<0x0A>", "<table>"),
    *("\u2581", "\u2581\u2581", "Ġ", "'s", "'LL", "’t", "don't", "http://a.b/c?d=1", "x_y", "3.14", "1234567", "-->"),
)
_SPACES = (*"  \n\t\r\u00a0\u3000\u2003\u2028\x85\x1c", "  ", "   ", "\n\n", "\r\n")


def odd_texts(number: int, seed: int) -> Iterator[str]:
    """Yield texts of pieces of ten languages, blocks of Unicode, white space, marks, controls and special tokens."""
    draw = random.Random(seed)
    lines = lines_of_ten_languages()
    for _ in range(number):
        text = "".join(_piece(draw, lines) for _ in range(draw.randint(1, 12)))
        yield unicodedata.normalize(draw.choice(_FORMS), text) if draw.random() < 0.5 else text


def _piece(draw: random.Random, lines: list[str]) -> str:
    kind = draw.random()
    if kind < 0.25:
        line = draw.choice(lines)
        start = draw.randrange(len(line))
        return line[start : start + draw.randint(1, 30)]
    if kind < 0.55:
        first, last = draw.choice(_BLOCKS)
        return "".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 6)))
    if kind < 0.7:
        return draw.choice(_SPACES) * draw.choice((1, 1, 1, 2, 3, 20))
    if kind < 0.8:
        return draw.choice(_SPELT)
    if kind < 0.9:
        return "".join(chr(draw.choice((draw.randrange(0x80), draw.randint(0x300, 0x36F)))) for _ in range(4))
    return draw.choice("aé字ก한=-.\u0301 ") * draw.choice((2, 3, 15, 16, 17, 70))
