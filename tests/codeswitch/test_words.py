"""Words found on token ids, against a regular expression on the text itself."""

from functools import cache

import numpy as np
import pytest
import regex

from megatron_prealign.codeswitch.token_classes import classify_vocabulary
from megatron_prealign.codeswitch.words import Words, find_eligible, find_words, hash_words, token_flags
from megatron_prealign.text.tokenizer import Tokenizer

FOREIGN = "Die Straße – «Über»: Банк стоит, под дождём! 银行在河边。 L'été déjà. naïve 😀 हिन्दी भाषा عربى x2 3D a_b"


def pack(encoded: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return documents back to back, and their offsets."""
    tokens = np.array([token for ids in encoded for token in ids], dtype=np.int32)
    return tokens, np.cumsum([0, *map(len, encoded)])


@cache
def classes(tokenizer: Tokenizer) -> np.ndarray:
    """Classify a vocabulary once for all tests."""
    return classify_vocabulary(tokenizer.token_bytes, tokenizer.special_ids)


def analyse(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, Words, np.ndarray]:
    """Return the tokens, their words, and which are eligible."""
    tokens, offsets = pack(tokenizer.encode_batch(texts))
    flags = token_flags(classes(tokenizer), tokens, offsets)
    words = find_words(flags, offsets)
    return tokens, words, find_eligible(flags, offsets, words)


def spell(tokenizer: Tokenizer, tokens: np.ndarray, words: Words) -> list[str]:
    """Return each word as its bytes spell it."""
    spans = zip(words.starts, words.stops, strict=True)
    return [b"".join(tokenizer.token_bytes[i] for i in tokens[start:stop]).decode() for start, stop in spans]


def test_words_are_the_runs_of_letters_of_the_text(tokenizer: Tokenizer, documents: list[str]) -> None:
    texts = [*documents, FOREIGN, "", "bank", "ing the", "\n\n  two  spaces\tand\ttabs"]
    tokens, words, _ = analyse(tokenizer, texts)
    found = spell(tokenizer, tokens, words)
    assert {len(word) - len(word.lstrip(" ")) for word in found} == {0, 1}
    expected = [regex.findall(r"[\p{L}\p{M}]+", text) for text in texts]
    assert [word.lstrip(" ") for word in found] == [word for words in expected for word in words]
    assert words.documents.tolist() == [i for i, words in enumerate(expected) for _ in words]
    assert words.indices.tolist() == [i for words in expected for i in range(len(words))]


def test_the_space_in_front_belongs_to_the_word(tokenizer: Tokenizer) -> None:
    tokens, words, _ = analyse(tokenizer, ["see the bank (bank) zxqvw"])
    found = spell(tokenizer, tokens, words)
    assert found[1:] == [" the", " bank", "bank", " zxqvw"]
    assert tokens[words.starts[2] : words.stops[2]].tolist() == tokenizer.encode_word("bank", spaced=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see the bank.", "see the bank"),
        ("bank", "bank"),
        ("bank\nbank", "bank bank"),
        ('He said: "the bank", (the bank) and [bank]!', "He said the bank the bank and bank"),
        ("‘bank’ “bank” «bank» bank… bank – bank—bank", "bank bank bank bank bank bank bank"),
        ("bank's don't the banks' cold", "the banks cold"),
        ("co-operate state-of-the-art and", "and"),
        ("version2 2nd 3D x2 and 4", "and"),
        ("e.g. the U.S. bank", "the bank"),
        ("go to https://www.bank.com/the/bank?a=bank&b=bank now", "go to now"),
        ("go to bank.com or www.bank.org/bank now", "go to or now"),
        ("write to the.bank@mail.bank.org now", "write to now"),
        ("call bank(the) or bank[the] or the_bank or bank=the or the/bank now", "call or or or or now"),
        ("<b>bank</b> #bank $bank @bank \\bank {bank} `bank` and", "and"),
        ("2 bank 3", "bank"),
    ],
)
def test_eligible_words(tokenizer: Tokenizer, text: str, expected: str) -> None:
    tokens, words, eligible = analyse(tokenizer, [text])
    found = np.array(spell(tokenizer, tokens, words))[eligible]
    assert " ".join(word.strip() for word in found) == expected


def test_documents_do_not_touch(tokenizer: Tokenizer) -> None:
    texts = ["the bank", "ing", "", "the bank", "-bank", "bank", "/the", "the ", "bank"]
    texts += ["the bank.", "class", '"bank"', "bank", "a@", "bank", "@a"]
    tokens, words, eligible = analyse(tokenizer, texts)
    alone = [analyse(tokenizer, [text]) for text in texts]
    assert spell(tokenizer, tokens, words) == [w for part in alone for w in spell(tokenizer, part[0], part[1])]
    assert eligible.tolist() == [e for part in alone for e in part[2].tolist()]


def test_special_tokens_bound_words_and_are_never_part_of_one(bpe: Tokenizer) -> None:
    assert bpe.eod_id is not None
    ids = [*bpe.encode("the bank"), bpe.eod_id, *bpe.encode("bank"), bpe.eod_id]
    tokens, offsets = pack([ids])
    flags = token_flags(classes(bpe), tokens, offsets)
    words = find_words(flags, offsets)
    assert spell(bpe, tokens, words) == ["the", " bank", "bank"]
    assert find_eligible(flags, offsets, words).all()


def test_word_hashes_tell_order_and_length_apart() -> None:
    tuples = [(1,), (2,), (1, 2), (2, 1), (1, 1), (1, 2, 0), (0, 1, 2), (0,), (0, 0)]
    tokens, offsets = pack([list(ids) for ids in tuples])
    hashes = hash_words(tokens, offsets[:-1], np.diff(offsets)).tolist()
    assert len(set(hashes)) == len(tuples)
    doubled, offsets = pack([list(ids) for ids in tuples + tuples])
    assert hash_words(doubled.astype(np.uint16), offsets[:-1], np.diff(offsets)).tolist() == hashes + hashes
