"""Written syllables of scripts without spaces, whole and cut into tokens of any bytes."""

import numpy as np
import pytest
import regex

from megatron_prealign.text.ragged import Ragged
from megatron_prealign.text.syllables import find_breaks, find_signs, find_text_breaks

SYLLABLES = [
    "แม|ว|เกา|ห|ลัง|กา",
    "การ์|ตู|น",
    "จันทร์| |ศา|สตร์|เรีย|น",
    "ทะ|เล|ก็|เดิน|เป็น|มือ|น้ำ|แสต็ก|เก็บ|ร็อ|ค",
    "ສະ|ບາ|ຍ|ດີ| |ເກົ່າ",
    "ព្រះ|រា|ជា|ណា|ច|ក្រ|ក|ម្ពុ|ជា|។",
    "ចាប់|ចប់|ប្រ|យោ|ជន៍",
    "မြန်|မာ|နိုင်|ငံ| |ဗုဒ္ဓ",
    "བོད|་|སྐད|་|ཡིག",
    "銀|行|が|辻󠄀|コ|ー|か\u3099",
    "a|b| |e\u0301|'|😀",
]


def unicode_clusters(text: str) -> set[int]:
    return {match.end() for match in regex.finditer(r"\X", text)}


@pytest.mark.parametrize("cut", SYLLABLES)
def test_syllables(cut: str) -> None:
    text = cut.replace("|", "")
    places = np.cumsum([0, *map(len, cut.split("|"))])
    assert np.flatnonzero(find_text_breaks(text)).tolist() == places.tolist()
    assert set(places[1:]) <= unicode_clusters(text)
    # Tokens of one byte, two and so on, with boundaries inside characters.
    data = text.encode()
    expected = {len(text[:place].encode()) for place in places}
    for size in range(1, 8):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        found = breaks_of_tokens(pieces, [0, len(pieces)])
        bytes_before = np.minimum(np.arange(len(pieces) + 1) * size, len(data))
        assert set(bytes_before[found]) == expected & set(bytes_before.tolist())


def breaks_of_tokens(pieces: list[bytes], offsets: list[int]) -> np.ndarray:
    vocabulary = sorted(set(pieces))
    text = Ragged.of(np.frombuffer(b"".join(vocabulary), dtype=np.uint8), np.array(list(map(len, vocabulary))))
    tokens = np.array([vocabulary.index(piece) for piece in pieces], dtype=np.int32)
    found = find_breaks(text, tokens, np.array(offsets))
    # A text without any sign need not be looked at.
    is_character = np.array([not 0x80 <= piece[0] < 0xC0 for piece in pieces])
    assert find_signs(text)[tokens].any() or found[:-1].tolist() == is_character.tolist()
    return found


def test_documents_end_syllables() -> None:
    found = breaks_of_tokens(["ก".encode(), "า".encode(), "ก".encode(), "า".encode()], [0, 1, 3, 3, 4])
    assert found.tolist() == [True, True, True, True, True]
    assert breaks_of_tokens([b"\xe0", b"\xb8"], [0, 2]).tolist() == [True, False, True]


def test_no_break_inside_a_cluster_of_unicode() -> None:
    letters = "".join(chr(code) for code in range(0xE00, 0x1100) if chr(code).isprintable()) * 3
    shuffled = "".join(np.random.default_rng(1).permutation(list(letters)))
    breaks = np.flatnonzero(find_text_breaks(shuffled)[1:]) + 1
    assert set(breaks.tolist()) <= unicode_clusters(shuffled)
