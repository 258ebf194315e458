"""Words of all scripts in every tokenizer: other encodings of the same letters, marks, cut syllables, case."""

import unicodedata

import numpy as np
import pytest

from megatron_prealign.codeswitch.codeswitch import codeswitch
from megatron_prealign.codeswitch.compile_lexicon import compile_lexicon
from megatron_prealign.codeswitch.switch_table import SwitchTable
from megatron_prealign.codeswitch.word_forms import WordEncoder
from megatron_prealign.lexicon import Lexicon, Translation
from megatron_prealign.text.tokenizer import Tokenizer


def switched(tokenizer: Tokenizer, source: str, target: str, lexicon: dict[str, str], text: str) -> str:
    """Return a text with every match switched."""
    pairs = [(word, Translation(translation, target)) for word, translation in lexicon.items()]
    return switched_by(compile_lexicon(Lexicon.from_pairs(source, pairs), tokenizer), tokenizer, text)


def switched_by(table: SwitchTable, tokenizer: Tokenizer, text: str) -> str:
    tokens = np.array(tokenizer.encode(text), dtype=np.int32)
    result = codeswitch(tokens, np.array([0, len(tokens)]), table, ratio=1.0, seed=1)
    data = b"".join(tokenizer.token_bytes[token] for token in result.tokens)
    return data.decode().strip(" ")


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("source", "lexicon", "text", "expected"),
    [
        ("vi", {"việt": "viet"}, f"{nfd('việt')} vi\xea\u0323t Việt {nfd('Việt VIỆT')}", "viet viet Viet Viet VIET"),
        ("de", {"Münze": "coin"}, f"Münze {nfd('Münze')}, {nfd('MÜNZE')}", "coin coin, COIN"),
        ("ko", {"한국": "Korea"}, f"한국 {nfd('한국')}.", "Korea Korea."),
        ("bn", {"ব\u09a1\u09bc": "big"}, "ব\u09dc ব\u09a1\u09bc।", "big big।"),
        ("ar", {"كتاب": "book"}, "\u200fكتاب\u200f, \u061cكتاب\u061c", "\u200fbook\u200f, \u061cbook\u061c"),
        (
            "en",
            {"bank": "Bank"},
            "\u2068bank\u2069 \ufeffbank\u200b (bank\u200e)",
            "\u2068Bank\u2069 \ufeffBank\u200b (Bank\u200e)",
        ),
        ("en", {"bank": "Bank"}, "a\u200fbank bank\u200fa 1\u200fbank", "a\u200fbank bank\u200fa 1\u200fbank"),
        ("en", {"bank": "Bank"}, "“bank” „bank“ bank… ‘bank’—bank", "“Bank” „Bank“ Bank… ‘Bank’—Bank"),
    ],
)
def test_equal_letters_and_invisible_marks(
    tokenizer: Tokenizer, source: str, lexicon: dict[str, str], text: str, expected: str
) -> None:
    assert switched(tokenizer, source, "en" if source != "en" else "de", lexicon, text) == expected


@pytest.mark.parametrize(
    ("source", "lexicon", "text", "expected"),
    [
        ("th", {"กา": "crow", "แมว": "cat"}, "แมวเกาหลังกา", "catเกาหลังcrow"),
        ("th", {"กา": "crow"}, "การ์ตูน กา", "การ์ตูน crow"),
        ("lo", {"ກາ": "crow"}, "ເກາ ກາ", "ເກາ crow"),
        ("km", {"ចា": "x", "រាជា": "king", "ក": "neck"}, "ចាប់រាជាក្រ ក", "ចាប់kingក្រ neck"),
        ("my", {"မြန်": "fast", "မာ": "hard"}, "မြန်မာ", "fasthard"),
        ("my", {"မြ": "x"}, "မြန်", "မြန်"),
        ("bo", {"བོད་": "Tibet", "ཡི་གེ": "letter"}, "བོད་ཡི་གེ། བོད། བོདས", "Tibetletter། Tibet། བོདས"),
        ("ja", {"ト・ド": "hot dog", "ド": "dog"}, "ト・ドとド・ト", "hot dogとdog・ト"),
        ("ja", {"か": "mosquito"}, "か か\u3099 が", "mosquito か\u3099 が"),
        ("he", {"צה״ל": "army", "של": "of"}, 'צה״ל של צה"ל "של", של׳', 'army of army "of", of׳'),
        ("ca", {"col·legi": "school"}, "El col·legi, Col·legi", "El school, School"),
    ],
)
def test_syllables_and_marks_inside_words(
    tokenizer: Tokenizer, source: str, lexicon: dict[str, str], text: str, expected: str
) -> None:
    assert switched(tokenizer, source, "en", lexicon, text) == expected


@pytest.mark.parametrize(
    ("source", "target", "lexicon", "text", "expected"),
    [
        ("en", "ka", {"house": "სახლი"}, "HOUSE House house", "სახლი სახლი სახლი"),
        ("ka", "en", {"სახლი": "house"}, "სახლი ᲡᲐᲮᲚᲘ", "house HOUSE"),
        ("en", "el", {"house": "σπίτι"}, "HOUSE House house", "ΣΠΙΤΙ Σπίτι σπίτι"),
        ("el", "en", {"σπίτι": "house"}, "ΣΠΙΤΙ ΣΠΊΤΙ Σπίτι", "HOUSE HOUSE House"),
        ("en", "nl", {"ice": "ijs"}, "Ice ICE ice", "IJs IJS ijs"),
        ("nl", "en", {"ijs": "ice"}, "IJs IJS ijs", "Ice ICE ice"),
        ("azj", "en", {"istanbul": "city"}, "İstanbul İSTANBUL Istanbul", "City CITY Istanbul"),
        ("vi", "en", {"học sinh": "student", "sinh": "birth"}, "Học Sinh học sinh Sinh", "Student student Birth"),
        ("en", "de", {"i": "ich", "go": "gehen"}, "I go and i go", "ich gehen and ich gehen"),
    ],
)
def test_case(
    tokenizer: Tokenizer, source: str, target: str, lexicon: dict[str, str], text: str, expected: str
) -> None:
    assert switched(tokenizer, source, target, lexicon, text) == expected


def test_a_saved_table_finds_the_same(tokenizer: Tokenizer, tmp_path: object) -> None:
    pairs = [("བོད་", Translation("Tibet", "en")), ("ཡི་གེ", Translation("σπίτι", "el"))]
    table = compile_lexicon(Lexicon.from_pairs("bo", pairs), tokenizer)
    table.save(folder := tmp_path / "table")  # type: ignore[operator]
    text = "བོད་ཡི་གེ། བོད།"
    assert switched_by(SwitchTable.load(folder, WordEncoder(tokenizer)), tokenizer, text) == switched_by(
        table, tokenizer, text
    )


def test_marks_that_no_word_has_change_nothing(bpe: Tokenizer) -> None:
    text = bpe.encode("a·b bank·bank של״ bank")
    counts = []
    for word in ("bank", "bank", "ba·nk"):
        pairs = [("bank", Translation("Ufer", "de")), (word, Translation("Bank", "de"))]
        table = compile_lexicon(Lexicon.from_pairs("ca", pairs), bpe)
        counts.append(codeswitch(np.array(text), np.array([0, len(text)]), table, 0.5, seed=1).counts.words)
    assert counts == [6, 6, 4]
