import pytest

from megatron_prealign.text.languages import expected_scripts, normalize_language, script_of, uses_spaces


@pytest.mark.parametrize("language", ["zh", "zh-Hans", "zh_TW", "ZH", "ja", "th", "lo", "my", "km", "zho", "jpn"])
def test_languages_without_spaces(language: str) -> None:
    assert not uses_spaces(language)


@pytest.mark.parametrize("language", ["en", "de", "ko", "vi", "ar", "hi", "clone", "jav", "xx"])
def test_languages_with_spaces(language: str) -> None:
    assert uses_spaces(language)


def test_scripts() -> None:
    assert expected_scripts("ru-RU") == ("CYRILLIC",)
    assert script_of("я") == "CYRILLIC"
    assert script_of("行") in (expected_scripts("zh-hant") or ())
    assert expected_scripts("chr") is None
    assert script_of("\ue000") == ""


def test_normal_form_of_a_tag() -> None:
    assert normalize_language(" zh_Hans ") == "zh-hans"
