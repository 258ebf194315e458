import copy
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors

from examples.paper.clone import clone_ids, clone_lexicon, clone_tokenizer, count_words, frequent_words, shared_ids
from examples.paper.clone_characters import CLONE_CHARACTERS, clone_text
from examples.paper.clone_checks import byte_alphabet, byte_level
from megatron_prealign.errors import ConfigError, DataError

Json = dict[str, Any]

CLONES = set(CLONE_CHARACTERS.values())
ANY_CHARACTER = st.characters(exclude_categories=["Cs"], exclude_characters=CLONES)
SNIPPETS = st.sampled_from(
    ["don't", "'s", " the", "  ", "\n\n", "\r\n", "...", "é", "\u0301", "银行", "<|endoftext|>", "1.5"]
)
TEXT = st.lists(st.one_of(SNIPPETS, st.text(ANY_CHARACTER, max_size=4), st.text("abcTHE '.,0", max_size=6))).map(
    "".join
)


class Pair:
    """A base tokenizer beside its clone, special tokens being plain text."""

    def __init__(self, content: Json, plain: bool = True) -> None:
        self.content, self.cloned = content, clone_tokenizer(content)
        self.base, self.clone = (Tokenizer.from_str(json.dumps(c)) for c in (self.content, self.cloned))
        self.base.encode_special_tokens = self.clone.encode_special_tokens = plain
        self.size, self.shared = self.base.get_vocab_size(), shared_ids(content)

    def assert_identity(self, text: str) -> None:
        ids = self.base.encode(text).ids
        cloned = self.clone.encode(clone_text(text)).ids
        assert cloned == clone_ids(ids, self.shared, self.size)
        assert self.clone.encode(text).ids == ids
        assert self.clone.decode(cloned, skip_special_tokens=False) == clone_text(text)


@pytest.fixture(scope="module")
def pair(base_tokenizer: Json) -> Pair:
    return Pair(base_tokenizer)


def test_identity_on_real_text(pair: Pair, docstrings: list[str]) -> None:
    tokens: Counter[bool] = Counter()
    for text in docstrings:
        pair.assert_identity(text)
        tokens.update(index in pair.shared for index in pair.base.encode(text).ids)
    assert tokens[True] < 0.15 * tokens.total()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXT)
def test_identity_on_any_text(pair: Pair, text: str) -> None:
    pair.assert_identity(text)


def test_vocabulary_is_base_then_clones(pair: Pair) -> None:
    base = pair.content["model"]["vocab"]
    cloned = pair.cloned["model"]["vocab"]
    assert sorted(cloned.values()) == list(range(2 * pair.size))
    assert {token: index for token, index in cloned.items() if index < pair.size} == base
    assert cloned[byte_level(clone_text("the"))] == base["the"] + pair.size
    assert cloned["Ġ" + byte_level(clone_text("the"))] == base["Ġthe"] + pair.size


def test_shared_tokens_are_special_blank_or_not_ascii(pair: Pair) -> None:
    names = {index: token for token, index in pair.content["model"]["vocab"].items()}
    characters = {character: byte for byte, character in byte_alphabet().items()}
    for index in range(pair.size):
        special = names[index] in ("<|endoftext|>", "<|pad|>")
        printable = not special and any(0x20 < characters[character] < 0x7F for character in names[index])
        assert (index in pair.shared) == (special or not printable)
        if index in pair.shared:
            assert pair.clone.id_to_token(index + pair.size) == f"<|shared:{index}|>"


def test_argument_stays_and_special_tokens_stay_special(base_tokenizer: Json) -> None:
    before = copy.deepcopy(base_tokenizer)
    pair = Pair(base_tokenizer, plain=False)
    assert base_tokenizer == before
    text = "one<|endoftext|>two"
    assert pair.base.encode(text).ids == pair.clone.encode(text).ids
    assert pair.clone.token_to_id("<|endoftext|>") in pair.clone.encode(text).ids


def test_merges_in_the_older_text_form(base_tokenizer: Json, pair: Pair) -> None:
    older = copy.deepcopy(base_tokenizer)
    older["model"]["merges"] = [" ".join(merge) for merge in older["model"]["merges"]]
    assert clone_tokenizer(older) == pair.cloned


def test_added_whitespace_tokens_and_a_begin_token_are_shared(base_tokenizer: Json, docstrings: list[str]) -> None:
    tokenizer = Tokenizer.from_str(json.dumps(base_tokenizer))
    tokenizer.add_tokens([AddedToken(" " * count, normalized=False) for count in range(2, 9)])
    end = ("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{end[0]} $A", special_tokens=[end])
    pair = Pair(json.loads(tokenizer.to_str()))
    assert pair.size == len(base_tokenizer["model"]["vocab"]) + 7
    used: set[int] = set()
    for text in docstrings[:15]:
        ids = pair.base.encode(text).ids
        used.update(ids)
        assert pair.clone.encode(clone_text(text)).ids == clone_ids(ids, pair.shared, pair.size)
    assert {pair.base.token_to_id("<|endoftext|>"), pair.base.token_to_id(" " * 4)} <= used


BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


@pytest.mark.parametrize(
    "steps",
    [
        [r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", BYTE_LEVEL],
        [r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", BYTE_LEVEL],
        [r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{M}]+|\p{N}{1,3}| ?[\p{P}\p{S}]+|\s+", BYTE_LEVEL],
        [r"\s?\p{L}+|\d|[一-龥]+|(?<=\p{L})\p{P}", BYTE_LEVEL],
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.WhitespaceSplit(), BYTE_LEVEL],
        [pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "merged_with_next")]), BYTE_LEVEL],
        [pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)],
    ],
)
def test_other_clonable_pre_tokenizers(train_with: Callable[[Any], Json], docstrings: list[str], steps: Any) -> None:
    pair = Pair(train_with(steps))
    # Cut, because text that is hardly split takes BPE a long time.
    for text in [
        *(document[:2000] for document in docstrings[:15]),
        "a'b c's 12345 x_y é\u0301t 一a龥. (Hello) HELLO wOrld!\r\n\r\n\tq",
    ]:
        ids = pair.base.encode(text).ids
        assert pair.clone.encode(clone_text(text)).ids == clone_ids(ids, pair.shared, pair.size)


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([pre_tokenizers.ByteLevel(add_prefix_space=False)], "contractions"),
        ([GPT2, BYTE_LEVEL], r'"\'delmrstv"|delmrstv'),
        ([LLAMA3, BYTE_LEVEL], r"\(\?i:"),
        ([r"[A-Za-z]+|\s+|[^A-Za-z\s]+", BYTE_LEVEL], "ABCDEF"),
        ([r"\w+|\s+|[^\w\s]+", BYTE_LEVEL], r"uses .w"),
        ([r"\p{Latin}+|\P{Latin}", BYTE_LEVEL], "Latin"),
        ([r"\p{Pd}|\P{Pd}+", BYTE_LEVEL], "Pd"),
        ([r"\.|[^.]+", BYTE_LEVEL], r"names '\.'"),
        ([r"[\s-]+|[^\s-]+", BYTE_LEVEL], "names '-'"),
        ([r"[[:alpha:]]+|\s+", BYTE_LEVEL], "literally"),
        ([pre_tokenizers.Split("-", "isolated"), BYTE_LEVEL], "names '-'"),
        ([pre_tokenizers.Punctuation(), BYTE_LEVEL], "Punctuation"),
        ([pre_tokenizers.UnicodeScripts(), BYTE_LEVEL], "UnicodeScripts"),
        ([BYTE_LEVEL, r"\p{L}+"], "end with its only ByteLevel"),
        ([pre_tokenizers.WhitespaceSplit()], "end with its only ByteLevel"),
    ],
)
def test_pre_tokenizers_that_see_the_clone_differently(
    train_with: Callable[[Any], Json], steps: Any, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        clone_tokenizer(train_with(steps))


def _with_model(**settings: Any) -> Callable[[Json], None]:
    return lambda content: content["model"].update(settings)


def _added(**settings: Any) -> Callable[[Json], None]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)

    def add(content: Json) -> None:
        index = content["model"]["vocab"].get(settings["content"], len(content["model"]["vocab"]))
        content["added_tokens"].append({"id": index, **flags, **settings})

    return add


def _lose_a_byte(content: Json) -> None:
    vocab = content["model"]["vocab"]
    vocab["unused"] = vocab.pop("Q")


def _leave_a_gap(content: Json) -> None:
    content["model"]["vocab"]["far"] = 10_000


def _know_armenian(content: Json) -> None:
    token = byte_level("ա")
    content["model"]["vocab"][token] = len(content["model"]["vocab"])
    content["model"]["merges"].append(list(token))


def _hold_a_placeholder(content: Json) -> None:
    content["model"]["vocab"]["<|shared:0|>"] = len(content["model"]["vocab"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_with_model(type="Unigram"), "Unigram, not byte-level BPE"),
        (_with_model(dropout=0.1), "dropout"),
        (_with_model(byte_fallback=True), "byte_fallback"),
        (_with_model(ignore_merges=True), "ignore_merges"),
        (_with_model(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (_with_model(continuing_subword_prefix="##"), "continuing_subword_prefix"),
        (lambda content: content.update(normalizer={"type": "NFC"}), "normalizer NFC"),
        (lambda content: content.update(decoder={"type": "BPEDecoder"}), "decoder"),
        (lambda content: content.update(pre_tokenizer=None), "ByteLevel"),
        (_lose_a_byte, "lacks 1 of the 256 byte tokens"),
        (_leave_a_gap, "gaps"),
        (_know_armenian, "clone characters already"),
        (_hold_a_placeholder, "shared:0"),
        (_added(content="<tool>"), "'<tool>' is not special"),
        (_added(content="!", special=True), "'!' is an ordinary token"),
        (_added(content="  ", single_word=True), "single_word"),
        (_added(content="ա", special=True), "holds a clone character"),
    ],
)
def test_tokenizers_that_cannot_be_cloned(base_tokenizer: Json, change: Callable[[Json], None], reason: str) -> None:
    content = copy.deepcopy(base_tokenizer)
    change(content)
    with pytest.raises(DataError, match=rf"can't be cloned: .*({reason})"):
        clone_tokenizer(content)


def test_every_reason_is_told_at_once(base_tokenizer: Json) -> None:
    content = copy.deepcopy(base_tokenizer)
    content["model"]["dropout"] = 0.1
    content["normalizer"] = {"type": "Lowercase"}
    with pytest.raises(DataError) as error:
        clone_tokenizer(content)
    assert len(error.value.problems) == 2


def test_words_are_letters_between_non_letters() -> None:
    counts = count_words(["The cat's don't-care; café x86 naïve A", "the cat, cat_2 été"])
    assert counts == Counter({"cat": 3, "The": 1, "the": 1, "s": 1, "don": 1, "t": 1, "care": 1, "x": 1, "A": 1})


def test_frequent_words_are_ranked_and_limited() -> None:
    counts = Counter({"b": 3, "a": 3, "c": 5, "d": 1})
    assert frequent_words(counts, min_count=2) == ["c", "a", "b"]
    assert frequent_words(counts, max_words=2) == ["c", "a"]
    with pytest.raises(ConfigError):
        frequent_words(counts, min_count=0)
    with pytest.raises(ConfigError):
        frequent_words(counts, max_words=0)


def test_clone_lexicon_pairs_each_word_with_its_clone() -> None:
    lexicon = clone_lexicon(["the", "The"])
    assert lexicon.languages == ("clone",)
    assert [(word, t.word) for word, t in lexicon.pairs()] == [("the", clone_text("the")), ("The", clone_text("The"))]
    with pytest.raises(DataError, match="no character with a clone"):
        clone_lexicon(["银行"])
    with pytest.raises(DataError, match="no word is left"):
        clone_lexicon([])
