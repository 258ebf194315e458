import gettext

import pycountry
import pytest

from megatron_prealign.errors import ConfigError, DataError
from megatron_prealign.lexicon import Lexicon, Translation, filter_lexicon, normalize_language
from megatron_prealign.lexicon.filters import Dropped, keep_heaviest

OFF = {"identity": False, "script": False, "non_letters": False, "one_letter": False}
KEEP = ("keep", Translation("behalten", "de"))


def lexicon_of(*pairs: tuple[str, str, str]) -> Lexicon:
    return Lexicon.from_pairs("en", [(source, Translation(word, language)) for source, word, language in pairs])


@pytest.mark.parametrize(
    ("name", "source", "word", "language"),
    [
        ("identity", "private", "Private", "de"),
        ("identity", "STRASSE", "straße", "de"),
        ("script", "house", "house", "ru"),
        ("script", "house", "домa", "ru"),  # the last letter is Latin
        ("script", "bank", "bank", "zh"),
        ("script", "tea", "чай", "hi"),
        ("script", "дом", "Haus", "de"),
        ("non_letters", "covid19", "Covid", "de"),
        ("non_letters", "ten", "10", "de"),
        ("non_letters", "water", "पानी~आना", "hi"),
        ("non_letters", "so", "-so", "de"),
        ("non_letters", "bank", "Bank (Geld)", "de"),
        ("one_letter", "b", "Be", "de"),
        ("one_letter", "to", "à", "fr"),
        ("multi_word", "army", "fuerzas armadas", "es"),
        ("multi_word", "ice cream", "Eis", "de"),
        ("max_length", "keep", "Donaudampfschiff", "de"),
    ],
)
def test_pair_is_dropped_by_the_filter_and_only_by_it(name: str, source: str, word: str, language: str) -> None:
    lexicon = Lexicon.from_pairs("en", [KEEP, (source, Translation(word, language))])
    kept, dropped = filter_lexicon(lexicon, **{**OFF, name: 15 if name == "max_length" else True})  # type: ignore[arg-type]
    assert list(kept.pairs()) == [KEEP]
    assert {key: found.count for key, found in dropped.items()} == {name: 1}
    assert dropped[name].examples == [f"{source} → {word}"]
    assert filter_lexicon(lexicon, **OFF) == (lexicon, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "word", "language"),
    [
        ("bank", "银行", "zh"),
        ("tooth", "牙", "zh-hans"),
        ("he", "彼", "ja"),
        ("shirt", "シャツー", "ja"),
        ("water", "물", "ko"),
        ("mother", "माँ", "hi"),
        ("two", "दो", "hi"),
        ("books", "کتاب\u200cها", "fa"),
        ("water", "l'eau", "fr"),
        ("relative", "mother-in-law", "nl"),
        ("army", "fuerzas armadas", "es"),
        ("land", "მიწა", "ka"),
        ("word", "ʻoʻzbek", "uz"),
        ("word", "ᏣᎳᎩ", "chr"),  # no script is known for Cherokee
        ("the", "մըե", "clone"),
    ],
)
def test_good_pair_passes_the_defaults(source: str, word: str, language: str) -> None:
    lexicon = lexicon_of((source, word, language))
    kept, dropped = filter_lexicon(lexicon)
    assert kept == lexicon
    assert {found.count for found in dropped.values()} == {0}


def test_pair_counts_under_the_first_filter_that_drops_it() -> None:
    _, dropped = filter_lexicon(lexicon_of(("keep", "behalten", "de"), ("7", "7", "zh"), ("x", "a", "ru")))
    counts = {name: found.count for name, found in dropped.items()}
    assert counts == {"identity": 1, "script": 1, "non_letters": 0, "one_letter": 0}


def test_heaviest_translations_of_each_language_stay_in_order() -> None:
    weights = [("c", "de", 1.0), ("a", "de", 3.0), ("x", "fr", 0.5), ("b", "de", 3.0), ("d", "de", 1.0)]
    lexicon = Lexicon.from_pairs("en", [("word", Translation(*weight)) for weight in weights])
    kept, dropped = keep_heaviest(lexicon, 3)
    assert [t.word for _, t in kept.pairs()] == ["c", "a", "x", "b"]
    kept, dropped = keep_heaviest(lexicon, 1)
    assert [t.word for _, t in kept.pairs()] == ["a", "x"]
    assert dropped == Dropped(3, ["word → c", "word → b", "word → d"])


def test_nothing_left_is_an_error_with_the_counts() -> None:
    with pytest.raises(DataError, match=r"all 2 word pairs \(identity 1, script 1\)"):
        filter_lexicon(lexicon_of(("private", "private", "sv"), ("och", "och så", "zh")))
    with pytest.raises(ConfigError, match="max_length"):
        filter_lexicon(lexicon_of(("keep", "behalten", "de")), max_length=0)
    with pytest.raises(ConfigError, match="max_translations"):
        keep_heaviest(lexicon_of(("keep", "behalten", "de")), 0)


@pytest.mark.parametrize(
    ("language", "german"),
    [
        ("de", "Deutsch"),
        ("fr", "Allemand"),
        ("ru", "немецкий"),
        ("ar", "الألمانية"),
        ("zh_CN", "德语"),
        ("ja", "ドイツ語"),
    ],
)
def test_real_names_of_languages(language: str, german: str) -> None:
    """Clean pycountry's names of languages: most are left in English, others have brackets or several words."""
    lexicon = names_of_languages(language)
    kept, dropped = filter_lexicon(lexicon, multi_word=True)
    assert kept.num_pairs + sum(found.count for found in dropped.values()) == lexicon.num_pairs
    assert dropped["identity"].count > 0.5 * lexicon.num_pairs
    assert dropped["non_letters"].count > 0
    assert kept.num_pairs > 100
    assert not any(set("()0123456789, ") & set(word + translation.word) for word, translation in kept.pairs())
    assert {word: translation.word for word, translation in kept.pairs()}["German"] == german


def test_real_dictionary_without_translations() -> None:
    with pytest.raises(DataError, match=r"identity 7\d\d\d"):
        filter_lexicon(names_of_languages("vi"), multi_word=True)


def names_of_languages(language: str) -> Lexicon:
    translate = gettext.translation("iso639-3", pycountry.LOCALES_DIR, languages=[language]).gettext
    names = sorted({entry.name for entry in pycountry.languages})
    return Lexicon.from_pairs(
        "en", [(name, Translation(translate(name), normalize_language(language))) for name in names]
    )
