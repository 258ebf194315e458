"""Words brought to the form of running text, their frequencies, and the coverage of texts."""

import pytest

from megatron_prealign.lexicon import Lexicon, Translation
from megatron_prealign.lexicon.building import lower_headwords, normalize_pairs, normalize_word
from megatron_prealign.lexicon.frequency import measure_coverage, rank_translations
from megatron_prealign.lexicon.language_check import identify


def lexicon_of(source: str, language: str, *pairs: tuple[str, str]) -> Lexicon:
    return Lexicon.from_pairs(source, [(word, Translation(translation, language)) for word, translation in pairs])


@pytest.mark.parametrize(
    ("word", "language", "expected"),
    [
        ("  two   words ", "en", "two words"),
        ("Mu\u0308nze", "de", "Münze"),
        ("so\u00adft\u200b", "de", "soft"),
        ("\ufeffBank\u200e", "de", "Bank"),
        ("ﬁnden", "de", "finden"),
        ("ＡＢＣ", "ja", "ABC"),
        ("x½²", "de", "x½²"),
        ("الـكِتَاب", "ar", "الكتاب"),
        ("ﻛﺘﺎﺏ", "ar", "كتاب"),
        ("שָׁלוֹם", "he", "שלום"),
        ("क़लम", "hi", "क़लम"),
        ("کتاب\u200cها", "fa", "کتاب\u200cها"),
        ('צה"ל', "he", "צה״ל"),
        ("བོད་ཡིག་", "bo", "བོད་ཡིག"),
        ("\u200b", "de", ""),
    ],
)
def test_words_have_the_form_of_running_text(word: str, language: str, expected: str) -> None:
    assert normalize_word(word, language) == expected


def test_pairs_of_which_a_word_vanishes_are_left_out() -> None:
    assert normalize_pairs([("a", Translation("\u200b", "de")), ("b", Translation("c ", "de"))], "en") == [
        ("b", Translation("c", "de"))
    ]


def test_only_habitual_capitals_are_lowered() -> None:
    def pairs(*words: str) -> list[tuple[str, Translation]]:
        return [(word, Translation("x", "de")) for word in words]

    headwords = pairs("Bank", "House", "NATO", "银行")
    assert lower_headwords(headwords, "en") == (pairs("bank", "house", "NATO", "银行"), True)
    assert lower_headwords(pairs("Sunday", "house"), "en") == (pairs("Sunday", "house"), False)
    assert lower_headwords(pairs("银行"), "en") == (pairs("银行"), False)
    assert lower_headwords(pairs("İzmir", "Isparta"), "tr") == (pairs("izmir", "ısparta"), True)
    assert lower_headwords(pairs("IJs", "BMWs"), "nl") == (pairs("ijs", "BMWs"), True)


def test_translations_are_ranked_by_frequency_and_weights_sum_to_one() -> None:
    ranked, lists = rank_translations(lexicon_of("en", "zh", ("bank", "渚"), ("bank", "岸"), ("bank", "银行")))
    assert [t.word for _, t in ranked.pairs()] == ["银行", "岸", "渚"]
    assert sum(t.weight for _, t in ranked.pairs()) == pytest.approx(1.0, abs=1e-5)
    assert lists == {"zh": "wordfreq zh"}
    ranked, lists = rank_translations(lexicon_of("en", "sw", ("bank", "benki"), ("bank", "ukingo")))
    assert ([t.weight for _, t in ranked.pairs()], lists) == ([0.5, 0.5], {"sw": "none"})
    ranked, _ = rank_translations(lexicon_of("en", "de", ("army", "Streitkräfte xyzzyq"), ("army", "gute Nacht")))
    assert [t.word for _, t in ranked.pairs()] == ["gute Nacht", "Streitkräfte xyzzyq"]


def test_words_of_unspaced_scripts_are_found_by_the_longest_match() -> None:
    lexicon = lexicon_of("zh", "en", ("银", "silver"), ("银行", "bank"), ("在", "at"))
    coverage = measure_coverage(lexicon, ["银行在河边，银在。"])
    assert (coverage.words, coverage.covered_words) == (6, 4)  # 银行 在 河 边 银 在
    assert coverage.missed == [("河", 1), ("边", 1)]


def test_marks_belong_to_words() -> None:
    coverage = measure_coverage(lexicon_of("hi", "en", ("किताब", "book")), ["किताब, किताब!"])
    assert (coverage.words, coverage.covered_words, coverage.ratio) == (2, 2, 1.0)


@pytest.mark.parametrize(
    ("language", "word", "text", "covered"),
    [
        ("vi", "việt", "vie\u0323\u0302t Việt", (2, 2)),
        ("bn", "ব\u09a1\u09bc", "ব\u09dc", (1, 1)),
        ("tr", "istanbul", "İSTANBUL istanbul", (2, 2)),
        ("he", "צה״ל", "צה״ל,", (1, 1)),
        ("fa", "کتاب\u200cها", "کتاب\u200cها", (1, 1)),
        ("bo", "བོད", "བོད་ཡིག བོདས", (4, 1)),  # བོད ་ ཡིག བོདས
        ("th", "กา", "แมวเกาหลังกา", (6, 1)),
    ],
)
def test_coverage_finds_words_as_the_bake_does(language: str, word: str, text: str, covered: tuple[int, int]) -> None:
    coverage = measure_coverage(lexicon_of(language, "en", (word, "x")), [text])
    assert (coverage.words, coverage.covered_words) == covered


def test_other_codes_of_a_language_have_its_frequencies() -> None:
    pairs = (("bank", "Ufer"), ("bank", "Bank"))
    ranked, lists = rank_translations(lexicon_of("eng_Latn", "deu-latn", *pairs))
    assert lists == {"deu-latn": "wordfreq de"}
    assert ranked.entries == tuple(rank_translations(lexicon_of("en", "deu-latn", *pairs))[0].entries)
    assert [t.word for _, t in ranked.pairs()] == ["Bank", "Ufer"]


def test_few_words_and_unknown_languages_are_not_judged() -> None:
    assert identify(["och", "arbete"], "sw") is None
    assert identify([f"ord{chr(97 + i // 20)}{chr(97 + i % 20)}" for i in range(200)], "clone") is None
