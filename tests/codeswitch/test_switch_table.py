"""The compiled lexicon: exact matches only, forms of a word, weighted choices."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_prealign.codeswitch import compile_lexicon as compile_module
from megatron_prealign.codeswitch import switch_table
from megatron_prealign.codeswitch.compile_lexicon import TableOptions, compile_lexicon
from megatron_prealign.codeswitch.draws import WeightedChoice
from megatron_prealign.codeswitch.switch_table import SwitchTable
from megatron_prealign.codeswitch.word_forms import NUM_FORMS, WordEncoder
from megatron_prealign.lexicon import Lexicon, Translation
from megatron_prealign.text.ragged import spread
from megatron_prealign.text.tokenizer import Tokenizer

PAIRS = [("bank", "Ufer", "de"), ("bank", "银行", "zh"), ("statement", "Aussage", "de"), ("polish", "polieren", "de")]
PAIRS += [("Polish", "polnisch", "de"), ("zxqvw", "wvqxz", "de")]


def make_lexicon(pairs: list[tuple[str, str, str]]) -> Lexicon:
    """Build a lexicon of (source, translation, language)."""
    return Lexicon.from_pairs("en", [(source, Translation(word, language)) for source, word, language in pairs])


def look_up(table: SwitchTable, words: list[list[int]]) -> list[int]:
    """Return the lexicon entry of each tuple of ids, -1 where there is none."""
    lengths = np.array([len(ids) for ids in words])
    tokens = np.array([token for ids in words for token in ids], dtype=np.int32)
    found = table.find(tokens, np.cumsum(lengths) - lengths, lengths)
    return [int(table.key_entries[key]) if key >= 0 else -1 for key in found]


def target(tokenizer: Tokenizer, table: SwitchTable, ids: list[int], pair: int) -> str:
    """Return what a word given by its ids turns into with one of all pairs."""
    key = table.find(np.array(ids), np.array([0]), np.array([len(ids)]))
    row, _ = table.targets.take(pair * NUM_FORMS + table.key_forms[key])
    return b"".join(tokenizer.token_bytes[i] for i in row).decode()


@pytest.fixture
def table(tokenizer: Tokenizer) -> SwitchTable:
    """The compiled lexicon of PAIRS."""
    return compile_lexicon(make_lexicon(PAIRS), tokenizer)


def test_every_form_of_a_source_word_is_found(tokenizer: Tokenizer, table: SwitchTable) -> None:
    cases = {
        "bank": 0,
        "Bank": 0,
        "BANK": 0,
        "statement": 1,
        "STATEMENT": 1,
        "zxqvw": 4,
        "bAnk": -1,
        "banks": -1,
        "ban": -1,
    }
    # An entry as it is written wins over the capitalised form of another; the first of two wins the capitals.
    cases |= {"polish": 2, "Polish": 3, "POLISH": 2}
    for spaced in (True, False):
        assert look_up(table, [tokenizer.encode_word(word, spaced) for word in cases]) == list(cases.values())


def test_without_case_transfer_only_the_written_form_is_found(tokenizer: Tokenizer) -> None:
    table = compile_lexicon(make_lexicon(PAIRS), tokenizer, TableOptions(case_transfer=False))
    words = ["bank", "Bank", "BANK", "polish", "Polish", "POLISH"]
    assert look_up(table, [tokenizer.encode_word(word, True) for word in words]) == [0, -1, -1, 2, 3, -1]


def test_translations_take_the_form_of_the_word(tokenizer: Tokenizer, table: SwitchTable) -> None:
    expected = {("bank", True): " Ufer", ("Bank", True): " Ufer", ("BANK", True): " UFER", ("bank", False): "Ufer"}
    for (word, spaced), text in expected.items():
        assert target(tokenizer, table, tokenizer.encode_word(word, spaced), pair=0) == text
    assert target(tokenizer, table, tokenizer.encode_word("Statement", True), pair=2) == " Aussage"
    for spaced in (True, False):  # no space in front of a script that has none
        assert target(tokenizer, table, tokenizer.encode_word("Bank", spaced), pair=1) == "银行"


def test_a_hash_is_never_trusted(tokenizer: Tokenizer, table: SwitchTable, monkeypatch: pytest.MonkeyPatch) -> None:
    def collide(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.zeros(len(starts), dtype=np.uint64)

    words = [
        tokenizer.encode_word(word, spaced) for word in ("zxqvw", "ZXQVW", "zxqvv", "zxq") for spaced in (True, False)
    ]
    words += [word[:-1] for word in words] + [word[::-1] for word in words]
    expected = look_up(table, words)
    assert set(expected) == {4, -1}
    monkeypatch.setattr(switch_table, "hash_words", collide)
    monkeypatch.setattr(compile_module, "hash_words", collide)
    assert look_up(compile_lexicon(make_lexicon(PAIRS), tokenizer), words) == expected


def test_unusable_entries_are_counted(bpe: Tokenizer) -> None:
    pairs = [("New York", "Neu", "de"), ("co-op", "x", "de"), ("x2", "y", "de"), ("bank", "Ufer", "de")]
    table = compile_lexicon(make_lexicon(pairs), bpe)
    assert table.num_entries == 2 and table.skipped["source not of letters"] == 2
    assert look_up(table, [bpe.encode_word("bank", True)]) == [3]  # still its position in the file


def test_unknown_characters_make_a_translation_unusable(sentencepiece_without_bytes: Tokenizer) -> None:
    pairs = [("bank", "银行", "zh"), ("bank", "Ufer", "de"), ("statement", "银", "zh"), ("банк", "bank", "en")]
    table = compile_lexicon(make_lexicon(pairs), sentencepiece_without_bytes)
    assert table.num_entries == 1
    assert table.skipped == {
        "source not of letters": 0,
        "source excluded": 0,
        "source not encodable": 1,
        "translation not encodable": 2,
    }


def test_an_empty_lexicon_finds_nothing(bpe: Tokenizer) -> None:
    table = compile_lexicon(Lexicon("en", ()), bpe)
    assert table.num_entries == 0
    assert look_up(table, [bpe.encode_word("bank", True), bpe.encode_word("zxqvw", True)]) == [-1, -1]


@pytest.mark.parametrize("draw", [np.random.default_rng(3).random, lambda n: np.arange(n) / n])
def test_choices_follow_the_weights(draw: Callable[[int], np.ndarray]) -> None:
    weights = [[1.0], [3.0, 1.0], [0.1, 0.2, 0.7], [5.0]]
    choice = WeightedChoice.of(np.concatenate(weights), np.array([len(group) for group in weights]))
    assert choice.offsets.tolist() == [0, 1, 3, 6, 7]
    number = 20_000
    for group, group_weights in enumerate(weights):
        items = choice.choose(np.full(number, group), draw(number)) - choice.offsets[group]
        shares = np.bincount(items, minlength=len(group_weights)) / number
        assert np.allclose(shares, np.array(group_weights) / sum(group_weights), atol=0.02)


def test_a_draw_next_to_one_stays_in_its_group() -> None:
    choice = WeightedChoice.of(np.tile([1.0, 2.0], 100_000), np.full(100_000, 2))
    groups = np.arange(100_000)
    items = choice.choose(groups, np.full(100_000, 1 - 2.0**-53))
    assert (items == 2 * groups + 1).all()
    assert (choice.choose(groups, np.zeros(100_000)) == 2 * groups).all()


def test_spread() -> None:
    assert spread(np.array([5, 0, 9]), np.array([3, 0, 2])).tolist() == [5, 6, 7, 9, 10]
    assert spread(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).tolist() == []


def choices(table: SwitchTable, tokenizer: Tokenizer, word: str, number: int = 400) -> dict[str, int]:
    """Count what is drawn for a word behind a space."""
    key = look_up_key(table, tokenizer.encode_word(word, True))
    groups = np.full(number, table.key_groups[key], dtype=np.int64)
    uniform = (np.arange(number) + 0.5) / number
    items = table.by_translation.choose(table.by_language.choose(groups, uniform), uniform[::-1].copy())
    rows = items * NUM_FORMS + table.key_forms[key]
    drawn = [tokenizer.decode(table.targets.take(np.array([row]))[0].tolist()) for row in rows]
    return {word: drawn.count(word) for word in sorted(set(drawn))}


def look_up_key(table: SwitchTable, ids: list[int]) -> int:
    """Return the key of a word's ids."""
    return int(table.find(np.array(ids), np.array([0]), np.array([len(ids)]))[0])


def test_options_say_what_is_drawn(bpe: Tokenizer) -> None:
    pairs = [
        ("bank", Translation("Ufer", "de", 1.0)),
        ("bank", Translation("Bank", "de", 3.0)),
        ("bank", Translation("banque", "fr", 0.1)),
        ("The", Translation("die", "de")),
    ]
    lexicon = Lexicon.from_pairs("en", pairs)
    weights = TableOptions(max_translations=1, language_weights={"fr": 3.0})
    assert choices(compile_lexicon(lexicon, bpe, weights), bpe, "bank") == {" Bank": 100, " banque": 300}
    assert set(choices(compile_lexicon(lexicon, bpe), bpe, "bank")) == {" Bank", " Ufer", " banque"}
    without = compile_lexicon(lexicon, bpe, TableOptions(excluded_words=frozenset({"the"})))
    assert look_up_key(without, bpe.encode_word("The", True)) == -1
    assert without.key_entries.max() == 0 and without.num_entries == 1
    assert weights.describe() != TableOptions().describe() != TableOptions(excluded_words=frozenset({"a"})).describe()


def test_turkish_has_capitals_of_its_own(bpe: Tokenizer) -> None:
    pairs = [("isim", Translation("iyi", "tr")), ("kalın", Translation("ince", "en"))]
    table = compile_lexicon(Lexicon.from_pairs("tr", pairs), bpe)
    for word, expected in {"isim": " iyi", "İsim": " İyi", "İSİM": " İYİ", "KALIN": " INCE"}.items():
        assert list(choices(table, bpe, word, 1)) == [expected]
    assert look_up_key(table, bpe.encode_word("Isim", True)) == -1


def test_forms_are_the_same_in_whatever_order_they_are_drawn(tokenizer: Tokenizer) -> None:
    words = ["Ufer", "银行", "ist", "polnisch", "École"]
    pairs = [("bank", word, "zh" if word == "银行" else "tr" if word == "ist" else "de") for word in words]
    one, other = (compile_lexicon(make_lexicon(pairs), tokenizer).targets for _ in range(2))
    forms = np.random.default_rng(5).integers(0, NUM_FORMS * len(words), 400)
    at_once, lengths = one.take(forms)
    by_one = [other.take(forms[i : i + 1])[0].tolist() for i in range(len(forms))]
    assert at_once.tolist() == [index for ids in by_one for index in ids] and (lengths > 0).all()
    assert lengths.tolist() == list(map(len, by_one))


def test_a_saved_table_is_the_same(tmp_path: Path, tokenizer: Tokenizer, table: SwitchTable) -> None:
    table.save(tmp_path / "table")
    loaded = SwitchTable.load(tmp_path / "table", WordEncoder(tokenizer))
    for name in ("languages", "num_entries", "skipped"):
        assert getattr(loaded, name) == getattr(table, name)
    for name in ("values", "offsets", "flags", "inner_marks"):
        assert np.array_equal(getattr(loaded.vocabulary, name), getattr(table.vocabulary, name))
    for name in ("has_signs", "key_hashes", "key_entries", "key_groups", "key_forms", "single_keys", "buckets"):
        assert np.array_equal(getattr(loaded, name), getattr(table, name))
    assert np.array_equal(loaded.key_tokens.values, table.key_tokens.values)
    assert np.array_equal(loaded.key_tokens.offsets, table.key_tokens.offsets)
    everything = np.arange(NUM_FORMS * len(table.targets.words))
    for one, other in zip(loaded.targets.take(everything), table.targets.take(everything), strict=True):
        assert np.array_equal(one, other)
    for name in ("by_language", "by_translation"):
        assert np.array_equal(getattr(loaded, name).cumulative, getattr(table, name).cumulative)
