import pytest

from megatron_prealign.text.languages import (
    expected_scripts,
    is_traditional_chinese,
    language_problems,
    normalize_language,
    primary_language,
    script_fits,
    uses_spaces,
)


@pytest.mark.parametrize(
    "language", ["zh", "zh-Hans", "zh_TW", "ZH", "ja", "th", "lo", "my", "km", "zho", "jpn", "khm_Khmr", "yue", "bo"]
)
def test_languages_without_spaces(language: str) -> None:
    assert not uses_spaces(language)


@pytest.mark.parametrize(
    "language", ["en", "de", "ko", "vi", "ar", "hi", "clone", "jav", "xx", "zh-latn", "jpn_Latn", "und"]
)
def test_languages_with_spaces(language: str) -> None:
    assert uses_spaces(language)


@pytest.mark.parametrize(
    ("language", "scripts"),
    [
        ("ru-RU", ("Cyrl",)),
        ("zh-hant", ("Hani",)),
        ("ja", ("Hani", "Hira", "Kana")),
        ("ko", ("Hang", "Hani")),
        ("hi-latn", ("Latn",)),
        ("uz-cyrl", ("Cyrl",)),
        ("pa-arab", ("Arab",)),
        ("sr", ("Cyrl", "Latn")),
        ("pa", ("Guru", "Arab")),
        ("arb", ("Arab",)),
        ("pes", ("Arab",)),
        ("azj", ("Latn",)),
        ("kmr_Latn", ("Latn",)),
        ("zho_Hans", ("Hani",)),
        ("mag", ("Deva",)),
        ("clone", ("Armn",)),
        ("xx", None),
        ("und", None),
    ],
)
def test_scripts(language: str, scripts: tuple[str, ...] | None) -> None:
    found = expected_scripts(language)
    assert found is None if scripts is None else found is not None and found[: len(scripts)] == scripts


@pytest.mark.parametrize(
    ("word", "language", "fits"),
    [
        ("kitaab", "hi-latn", True),
        ("किताब", "hi-latn", False),
        ("китоб", "uz-cyrl", True),
        ("o\u02bbzbek", "uz", True),
        ("コーヒー", "ja", True),
        ("コーヒー", "zh", False),
        ("كتاب", "arb", True),
        ("book", "arb", False),
        ("domа", "en", False),  # the last letter is Cyrillic
        ("\ue000", "en", True),  # no letter
    ],
)
def test_words_of_another_script(word: str, language: str, fits: bool) -> None:
    assert script_fits(word, language) == fits


@pytest.mark.parametrize(
    ("language", "primary"),
    [
        ("zh_Hans", "zh"),
        ("cmn", "zh"),
        ("eng_Latn", "en"),
        ("arb_Arab", "ar"),
        ("pes", "fa"),
        ("azj", "az"),
        ("swh", "sw"),
        ("clone", "clone"),
        ("xx-yy", "xx"),
        ("und", "und"),
    ],
)
def test_primary_language(language: str, primary: str) -> None:
    assert primary_language(language) == primary


def test_traditional_chinese() -> None:
    asking = [
        tag for tag in ("zh", "zh-cn", "zh-hant", "zh-tw", "zh_HK", "yue", "zho_Hant") if is_traditional_chinese(tag)
    ]
    assert asking == ["zh-hant", "zh-tw", "zh_HK", "yue", "zho_Hant"]


def test_normal_form_of_a_tag() -> None:
    assert normalize_language(" zh_Hans ") == "zh-hans"


def test_names_of_languages_are_no_tags() -> None:
    assert not any(language_problems("--x", tag) for tag in ("de", "eng_Latn", "zh-hant", "clone", None))
    assert all(language_problems("--x", tag) for tag in ("english", "de--at", "x", ""))
