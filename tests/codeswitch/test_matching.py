"""The longest match against a loop over atoms; entries of several words; languages without spaces."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from megatron_prealign.codeswitch import codeswitch as codeswitch_module
from megatron_prealign.codeswitch import compiled, draws
from megatron_prealign.codeswitch.codeswitch import codeswitch, find_matches
from megatron_prealign.codeswitch.compile_lexicon import compile_lexicon
from megatron_prealign.codeswitch.switch_table import SwitchTable
from megatron_prealign.lexicon import Lexicon, Translation
from megatron_prealign.text.tokenizer import Tokenizer

PHRASES = [
    "the bank",
    "bank",
    "bank of the object",
    "object",
    "of the",
    "of the object",
    "the object is",
    "zxqvw zxqvw",
]
WORDS = ["the", "bank", "of", "object", "is", "zxqvw", "class"]


def make_table(tokenizer: Tokenizer, lexicon: dict[str, str], source: str, target: str) -> SwitchTable:
    pairs = [(word, Translation(translation, target)) for word, translation in lexicon.items()]
    return compile_lexicon(Lexicon.from_pairs(source, pairs), tokenizer)


@cache
def phrase_table(tokenizer: Tokenizer) -> SwitchTable:
    return make_table(tokenizer, {phrase: f"W{number}" for number, phrase in enumerate(PHRASES)}, "en", "de")


def matched(table: SwitchTable, tokenizer: Tokenizer, texts: list[str]) -> list[tuple[int, int, int]]:
    """Return (document, index of the first atom, entry) of each match."""
    encoded = tokenizer.encode_batch(texts)
    tokens = np.array([token for ids in encoded for token in ids], dtype=np.int32)
    matches = find_matches(table, tokens, np.cumsum([0, *map(len, encoded)]))
    entries = table.key_entries[matches.keys]
    return list(zip(matches.spans.documents.tolist(), matches.spans.indices.tolist(), entries.tolist(), strict=True))


def longest_matches(words: list[str], entries: list[str]) -> list[tuple[int, int]]:
    """Return (first word, entry), left to right, at each word the longest entry that begins there."""
    found, position = [], 0
    while position < len(words):
        sizes = [
            (len(entry.split()), number)
            for number, entry in enumerate(entries)
            if words[position : position + len(entry.split())] == entry.split()
        ]
        size, number = max(sizes, default=(1, -1))
        if number >= 0:
            found.append((position, number))
        position += size
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(st.lists(st.sampled_from(WORDS), max_size=12), max_size=5))
@example(documents=[["class", "of", "the", "object"], ["the", "object"], ["is"]])
def test_the_longest_entry_from_left_to_right(tokenizer: Tokenizer, documents: list[list[str]]) -> None:
    # All longest matches of these entries begin where a loop that skips nothing but matches finds them.
    expected = [
        (number, first, entry)
        for number, words in enumerate(documents)
        for first, entry in longest_matches(words, PHRASES)
    ]
    assert matched(phrase_table(tokenizer), tokenizer, [" ".join(words) for words in documents]) == expected


def switched(table: SwitchTable, tokenizer: Tokenizer, text: str) -> str:
    """Return a text with every match switched."""
    tokens = np.array(tokenizer.encode(text), dtype=np.int32)
    result = codeswitch(tokens, np.array([0, len(tokens)]), table, ratio=1.0, seed=1)
    assert all(label == tokens[0] or label in tokens for _, _, label, _ in result.records.tolist())
    return tokenizer.decode(result.tokens.tolist()).strip()


def test_several_words_become_one_translation(tokenizer: Tokenizer) -> None:
    table = make_table(tokenizer, {"ice cream": "Eis", "ice": "Glatteis", "in fact": "tatsächlich"}, "en", "de")
    cases = {
        "The ice cream melts.": "The Eis melts.",
        "Ice cream, and ice": "Eis, and Glatteis",
        "ICE CREAM ice": "EIS Glatteis",
        "(In fact) [ice cream]": "(Tatsächlich) [Eis]",
        "ice, cream": "Glatteis, cream",  # something stands between
        "ice  cream": "Glatteis  cream",
        "ice cream@home.com": "Glatteis cream@home.com",  # never a part of an address
        "ice cream–a@b.com": "Glatteis cream–a@b.com",
        "ice cream-coloured": "Glatteis cream-coloured",
    }
    for text, expected in cases.items():
        assert switched(table, tokenizer, text) == expected, text


def test_words_around_an_entry_keep_their_draws(bpe: Tokenizer) -> None:
    without = make_table(bpe, {"bank": "Ufer", "object": "Ding"}, "en", "de")
    with_phrase = make_table(bpe, {"bank": "Ufer", "object": "Ding", "is the": "ist"}, "en", "de")
    tokens = np.array(bpe.encode(" bank is the object" * 200), dtype=np.int32)
    results = [codeswitch(tokens, np.array([0, len(tokens)]), table, 0.3, seed=4) for table in (without, with_phrase)]
    switches = [[record[2:].tolist() for record in result.records] for result in results]
    assert len(switches[0]) > 50
    assert [switch for switch in switches[1] if switch[1] < 2] == switches[0]
    assert results[1].counts.words == results[0].counts.words == 800


@pytest.mark.parametrize(
    ("language", "lexicon", "cases"),
    [
        (
            "zh",
            {"银行": "Bank", "在": "in", "河边": "Ufer", "中国银行": "Zentralbank", "OK": "gut"},
            {
                "银行在河边。": "BankinUfer。",
                "中国银行在河边": "ZentralbankinUfer",
                "OK银行": "OKBank",
                "“银行”": "“Bank”",
            },
        ),
        ("th", {"ธนาคาร": "Bank", "น": "N"}, {"ธนาคาร": "Bank", "นี": "นี", "น ธนาคาร": "N Bank"}),
    ],
)
def test_languages_without_spaces(
    sentencepiece: Tokenizer, language: str, lexicon: dict[str, str], cases: dict[str, str]
) -> None:
    table = make_table(sentencepiece, lexicon, language, "de")
    for text, expected in cases.items():
        assert switched(table, sentencepiece, text) == expected, text


def test_long_entries_are_left_out(bpe: Tokenizer) -> None:
    table = make_table(bpe, {"the object is the bank": "W", "the object is the bank of": "W"}, "en", "de")
    assert table.num_entries == 1 and table.skipped["source not of letters"] == 1


def in_arrays(table: SwitchTable) -> SwitchTable:
    """Return a table that is searched with whole-array operations."""
    table = replace(table)
    table.__dict__["scanner"] = None
    return table


@pytest.mark.skipif(compiled is None, reason="installed without a C compiler")
def test_the_compiled_search_finds_what_array_operations_find(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    lexicon = {phrase: f"W{number}" for number, phrase in enumerate([*PHRASES, "unexpectedly", "is", "the"])}
    table = make_table(bpe, lexicon, "en", "de")
    spelt = bpe.encode_batch([*PHRASES, *(f" {phrase}" for phrase in PHRASES), " unexpectedly", " is", "the"])
    random = np.random.default_rng(1)
    num_found = 0
    for share in (0.02, 0.1, 0.3) * 100:
        pieces = [spelt[number] for number in random.integers(0, len(spelt), 60)]
        tokens = np.concatenate(pieces).astype(np.int32)
        offsets = np.concatenate(([0], np.sort(random.integers(0, len(tokens), 4)), [len(tokens)]))
        # Any classes, more often those of words: the rules must hold where no tokenizer of ours leads.
        flags = np.where(random.random(len(tokens)) < 0.9, table.vocabulary.flags[tokens], 0).astype(np.uint16)
        bits = random.random((len(tokens), 15)) < share
        flags ^= (bits << np.arange(15)).sum(axis=1).astype(np.uint16)
        monkeypatch.setattr(codeswitch_module, "token_flags", lambda *arguments, flags=flags: flags)
        found, expected = (find_matches(each, tokens, offsets) for each in (table, in_arrays(table)))
        assert found.num_atoms == expected.num_atoms
        assert np.array_equal(found.keys, expected.keys)
        for name in ("starts", "stops", "documents", "indices"):
            assert np.array_equal(getattr(found.spans, name), getattr(expected.spans, name)), name
        num_found += len(found.keys)
    assert num_found > 1000


@pytest.mark.skipif(compiled is None, reason="installed without a C compiler")
def test_compiled_document_keys_are_those_of_array_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.default_rng(1).integers(0, 2**31 - 1, 100).astype(np.int32)
    offsets = np.array([0, 0, 1, 40, 40, 100])
    keys = draws.document_keys(tokens, offsets)
    monkeypatch.setattr(draws, "compiled", None)
    assert np.array_equal(keys, draws.document_keys(tokens, offsets))
