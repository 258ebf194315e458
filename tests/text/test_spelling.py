"""Case by the rules of a language, and other ways to write the same letters."""

import unicodedata

import pytest

from megatron_prealign.text.spelling import (
    as_written,
    capitalise,
    capitalise_each,
    equal_spellings,
    fold_case,
    in_capitals,
    uncapitalise,
    with_word_marks,
)


@pytest.mark.parametrize(
    ("word", "language", "capitalised", "capitals"),
    [
        ("haus", "de", "Haus", "HAUS"),
        ("straße", "de", "Straße", "STRASSE"),
        ("ijs", "nl", "IJs", "IJS"),
        ("ijs", "de", "Ijs", "IJS"),
        ("istanbul", "tr", "İstanbul", "İSTANBUL"),
        ("istanbul", "azj_Latn", "İstanbul", "İSTANBUL"),
        ("ılık", "tur", "Ilık", "ILIK"),
        ("istanbul", "en", "Istanbul", "ISTANBUL"),
        ("ǆep", "hr", "ǅep", "ǄEP"),
        ("სახლი", "ka", "სახლი", "სახლი"),
        ("σπίτι", "el", "Σπίτι", "ΣΠΙΤΙ"),
        ("άυλος", "ell", "Άυλος", "ΑΫΛΟΣ"),
        ("μαΐου", "el", "Μαΐου", "ΜΑΪΟΥ"),
        ("ναι ή όχι", "el", "Ναι ή όχι", "ΝΑΙ Ή ΟΧΙ"),
        ("银行", "zh", "银行", "银行"),
    ],
)
def test_capitals(word: str, language: str, capitalised: str, capitals: str) -> None:
    assert (capitalise(word, language), in_capitals(word, language)) == (capitalised, capitals)


def test_phrases_and_the_way_back() -> None:
    assert capitalise_each("học sinh", "vi") == "Học Sinh"
    lowered = [("İzmir", "tr"), ("Isparta", "tr"), ("IJsland", "nl"), ("Isparta", "en"), ("Ä", "de")]
    assert [uncapitalise(*case) for case in lowered] == ["izmir", "ısparta", "ijsland", "isparta", "ä"]
    assert fold_case("İSTANBUL ILIK", "tr") == "istanbul ılık"
    assert fold_case("STRASSE", "de") == fold_case("straße", "de")
    assert fold_case("Mu\u0308nze \u09dc", "de") == "münze \u09a1\u09bc"
    assert (as_written("i", "eng"), as_written("i", "it"), as_written("is", "en")) == ("I", "i", "is")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("bank", []),
        ("Straße", []),
        ("Übung", ["U\u0308bung"]),
        ("한", ["\u1112\u1161\u11ab"]),
        ("ব\u09a1\u09bc", ["ব\u09dc"]),
        ("việt", ["vie\u0323\u0302t", "viê\u0323t"]),
        ("ớt", ["o\u031b\u0301t", "ơ\u0301t"]),
        ("צה״ל", ['צה"ל']),
        ("བོད", ["བོད་"]),
        ("བོད་", ["བོད"]),
        ("ホット・ドッグ", ["ホット・ト\u3099ック\u3099"]),
    ],
)
def test_equal_spellings(word: str, expected: list[str]) -> None:
    assert equal_spellings(word) == expected


def test_equal_spellings_of_letters_are_canonically_equivalent() -> None:
    for letter in map(chr, range(0xA0, 0x3000)):
        for equal in equal_spellings(f"{letter}a") if letter not in "׳״" else ():
            assert unicodedata.normalize("NFD", equal) == unicodedata.normalize("NFD", f"{letter}a")


def test_word_marks() -> None:
    assert with_word_marks('צה"ל') == "צה״ל"
    assert with_word_marks("ג'ירפה") == "ג׳ירפה"
    assert with_word_marks('"שלום"') == '"שלום"'
    assert with_word_marks("l'eau") == "l'eau"
    assert with_word_marks("བོད་ཡིག་") == "བོད་ཡིག"
