"""The code-switch against a reference on Python lists of words, and its statistics."""

from functools import cache
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_prealign.codeswitch.codeswitch import Switched, codeswitch
from megatron_prealign.codeswitch.compile_lexicon import compile_lexicon
from megatron_prealign.codeswitch.draws import Counter, document_keys, draw, stream_keys
from megatron_prealign.codeswitch.labels import IGNORE, LabelMode, apply_switch_records
from megatron_prealign.codeswitch.switch_table import SwitchTable
from megatron_prealign.lexicon import Lexicon, Translation, uses_spaces
from megatron_prealign.text.tokenizer import Tokenizer

# Source words and translations of one token and of many.
SOURCES = ["the", "statement", "is", "bank", "zxqvw", "object", "unexpectedly"]
TARGETS = [("Anweisung", "de"), ("die", "de"), ("银行", "zh"), ("在", "zh"), ("банк", "ru"), ("object", "clone")]

documents_strategy = st.lists(st.lists(st.sampled_from([*SOURCES, "class", "xylophones"]), max_size=12), max_size=6)
lexicon_strategy = st.dictionaries(
    st.sampled_from(SOURCES), st.lists(st.sampled_from(TARGETS), min_size=1, max_size=4, unique=True), max_size=6
)


def make_table(tokenizer: Tokenizer, lexicon: dict[str, list[tuple[str, str]]]) -> SwitchTable:
    """Compile a lexicon given as a dictionary."""
    pairs = [(source, Translation(*target)) for source, targets in lexicon.items() for target in targets]
    return compile_lexicon(Lexicon.from_pairs("en", pairs), tokenizer)


def pack(encoded: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return documents back to back, and their offsets."""
    tokens = np.array([token for ids in encoded for token in ids], dtype=np.int32)
    return tokens, np.cumsum([0, *map(len, encoded)])


def unpack(result: Switched) -> list[tuple[list[int], list[list[int]]]]:
    """Return (tokens, records) of each document."""
    bounds = np.cumsum([0, *result.record_counts])
    return [
        (result.tokens[start:stop].tolist(), result.records[first:last].tolist())
        for start, stop, first, last in zip(
            result.offsets[:-1], result.offsets[1:], bounds[:-1], bounds[1:], strict=True
        )
    ]


def reference(
    tokenizer: Tokenizer,
    words: list[str],
    lexicon: dict[str, list[tuple[str, str]]],
    ratio: float,
    seed: int,
    mode: str,
) -> tuple[list[int], list[int]]:
    """Switch a document word by word: (tokens, labels)."""
    assert tokenizer.eod_id is not None
    behind_space = [index > 0 for index in range(len(words))]
    originals = [tokenizer.encode_word(word, spaced) for word, spaced in zip(words, behind_space, strict=True)]
    ids = np.array([*chain.from_iterable(originals), tokenizer.eod_id])
    stream = stream_keys(seed, 0, document_keys(ids, np.array([0, len(ids)])))
    tokens, labels = [], []
    for index, (word, original) in enumerate(zip(words, originals, strict=True)):
        switch, pick_language, pick_word = (float(draw(stream, np.array([index]), counter)[0]) for counter in Counter)
        if word not in lexicon or switch >= ratio:
            tokens, labels = tokens + original, labels + original
            continue
        languages = sorted({language for _, language in lexicon[word]})
        language = languages[int(pick_language * len(languages))]
        choices = [target for target, its_language in lexicon[word] if its_language == language]
        target = choices[int(pick_word * len(choices))]
        new = tokenizer.encode_word(target, behind_space[index] and uses_spaces(language))
        first = {"input-only": original[0], "no-predict": IGNORE, "vanilla": new[0]}[mode]
        tokens, labels = tokens + new, [*labels, first, *(new[1:] if mode == "vanilla" else [IGNORE] * (len(new) - 1))]
    return [*tokens, tokenizer.eod_id], [*labels, tokenizer.eod_id]


@pytest.mark.parametrize("mode", ["input-only", "vanilla", "no-predict"])
@given(
    documents=documents_strategy,
    lexicon=lexicon_strategy,
    ratio=st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]),
    seed=st.integers(-(2**40), 2**40),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_tokens_and_labels_equal_the_reference(
    bpe: Tokenizer,
    mode: LabelMode,
    documents: list[list[str]],
    lexicon: dict[str, list[tuple[str, str]]],
    ratio: float,
    seed: int,
    data: st.DataObject,
) -> None:
    assert bpe.eod_id is not None
    encoded = [[*bpe.encode(" ".join(words)), bpe.eod_id] for words in documents]
    result = codeswitch(*pack(encoded), make_table(bpe, lexicon), ratio, seed)
    assert result.record_counts.sum() == len(result.records) == result.counts.switched
    for (tokens, records), words in zip(unpack(result), documents, strict=True):
        expected_tokens, expected_labels = reference(bpe, words, lexicon, ratio, seed, mode)
        assert tokens == expected_tokens
        # Any slice, as a sample that begins or ends inside a switch cuts it.
        start = data.draw(st.integers(0, len(tokens)))
        stop = data.draw(st.integers(start, len(tokens)))
        array = np.array(records, dtype=np.int32).reshape(-1, 4)
        labels = apply_switch_records(np.array(tokens)[start:stop], array, mode, offset=start)
        assert labels.tolist() == expected_labels[start:stop]


LEXICON = {word: [("Anweisung", "de"), ("die", "de"), ("银行", "zh")] for word in ["the", "a", "is", "statement", "to"]}


@cache
def real_table(tokenizer: Tokenizer) -> SwitchTable:
    """The compiled LEXICON."""
    return make_table(tokenizer, LEXICON)


def test_ratio_zero_changes_nothing_and_ratio_one_switches_all(tokenizer: Tokenizer, documents: list[str]) -> None:
    tokens, offsets = pack(tokenizer.encode_batch(documents[:20]))
    nothing = codeswitch(tokens, offsets, real_table(tokenizer), 0.0, seed=1)
    assert np.array_equal(nothing.tokens, tokens) and np.array_equal(nothing.offsets, offsets)
    assert len(nothing.records) == 0 and not nothing.record_counts.any()
    everything = codeswitch(tokens, offsets, real_table(tokenizer), 1.0, seed=1)
    assert everything.counts.switched == everything.counts.covered == nothing.counts.covered > 1000
    assert everything.counts.words == nothing.counts.words > 5 * everything.counts.covered
    assert everything.counts.switched_tokens == everything.records[:, 1].sum()
    grown = everything.counts.switched_tokens - everything.counts.replaced_tokens
    assert len(everything.tokens) == len(tokens) + grown == everything.offsets[-1]


def test_records_name_the_original_and_the_translation(tokenizer: Tokenizer, documents: list[str]) -> None:
    encoded = tokenizer.encode_batch(documents[:20])
    first_ids = {source: {tokenizer.encode_word(form, spaced)[0] for form in (source, source.title(), source.upper())
                          for spaced in (True, False)} for source in LEXICON}  # fmt: skip
    sources = list(LEXICON)
    for tokens, records in unpack(codeswitch(*pack(encoded), real_table(tokenizer), 0.5, seed=1)):
        end = 0
        for start, length, label, entry in records:
            assert end <= start and length > 0
            end = start + length
            assert label in first_ids[sources[entry]]
            text = b"".join(tokenizer.token_bytes[i] for i in tokens[start:end]).decode().lstrip(" ")
            assert text.lower() in {"anweisung", "die", "银行"}
        assert end <= len(tokens)


def test_input_is_left_alone_and_its_type_kept(bpe: Tokenizer, documents: list[str]) -> None:
    tokens, offsets = pack(bpe.encode_batch(documents[:5]))
    small = tokens.astype(np.uint16)
    small.flags.writeable = False
    result = codeswitch(small, offsets, real_table(bpe), 1.0, seed=1)
    assert result.tokens.dtype == np.uint16
    assert np.array_equal(result.tokens, codeswitch(tokens, offsets, real_table(bpe), 1.0, seed=1).tokens)


def test_a_document_does_not_depend_on_its_neighbours(tokenizer: Tokenizer, documents: list[str]) -> None:
    encoded = [*tokenizer.encode_batch(documents[:12]), [], tokenizer.encode("the"), tokenizer.encode("ing the")]
    table = real_table(tokenizer)
    together = unpack(codeswitch(*pack(encoded), table, 0.5, seed=7))
    alone = [unpack(codeswitch(*pack([ids]), table, 0.5, seed=7))[0] for ids in encoded]
    assert together == alone
    assert unpack(codeswitch(*pack(encoded[::-1]), table, 0.5, seed=7)) == alone[::-1]


def test_seed_and_epoch_change_the_switches(bpe: Tokenizer, documents: list[str]) -> None:
    packed = pack(bpe.encode_batch(documents[:5]))
    addresses = [(1, 0), (2, 0), (1, 1), (0, 1), (2, 1)]
    outcomes = {codeswitch(*packed, real_table(bpe), 0.5, *address).tokens.tobytes() for address in addresses}
    assert len(outcomes) == len(addresses)


@pytest.mark.parametrize("ratio", [0.05, 0.3])
def test_switches_have_the_rate_asked_for(bpe: Tokenizer, documents: list[str], ratio: float) -> None:
    packed = pack(bpe.encode_batch(documents))
    counts = codeswitch(*packed, real_table(bpe), ratio, seed=11).counts
    deviation = np.sqrt(counts.covered * ratio * (1 - ratio))
    assert counts.covered > 5_000
    assert abs(counts.switched - ratio * counts.covered) < 4.5 * deviation
    # Two languages, drawn evenly although one has two translations.
    assert sum(counts.by_language.values()) == counts.switched
    assert abs(counts.by_language["de"] - counts.switched / 2) < 4.5 * np.sqrt(counts.switched / 4)


def test_documents_that_begin_and_end_with_switched_words(bpe: Tokenizer) -> None:
    texts = ["the", "the is", "the class is", "is is is"]
    table = make_table(bpe, {"the": [("银行", "zh")], "is": [("unexpectedly", "de")]})
    results = unpack(codeswitch(*pack(bpe.encode_batch(texts)), table, 1.0, seed=1))
    spelled = [b"".join(bpe.token_bytes[i] for i in tokens).decode() for tokens, _ in results]
    assert spelled == ["银行", "银行 unexpectedly", "银行 class unexpectedly", "unexpectedly unexpectedly unexpectedly"]
    for tokens, records in results:
        assert records[0][0] == 0 and records[-1][0] + records[-1][1] == len(tokens)
    tokens, records = results[3]
    labels = apply_switch_records(np.array(tokens), np.array(records), "input-only")
    lengths = [record[1] for record in records]
    first = [bpe.encode_word("is", index > 0)[0] for index in range(3)]
    assert labels.tolist() == [x for i in range(3) for x in [first[i], *[IGNORE] * (lengths[i] - 1)]]


def test_special_tokens_are_never_switched(bpe: Tokenizer) -> None:
    assert bpe.eod_id is not None
    table = make_table(bpe, {"the": [("die", "de")], "endoftext": [("x", "de")]})
    ids = [bpe.eod_id, *bpe.encode("the"), bpe.eod_id, *bpe.encode(" the"), bpe.eod_id]
    result = codeswitch(*pack([ids, [bpe.eod_id]]), table, 1.0, seed=1)
    assert (result.tokens == bpe.eod_id).sum() == 4
    assert result.counts.switched == 2


def test_only_eligible_words_are_switched(tokenizer: Tokenizer) -> None:
    table = make_table(tokenizer, {"the": [("DIE", "de")]})
    text = "see the (the) but not http://the.org/the the-class the_the the.class@the.org or the2"
    result = codeswitch(*pack([tokenizer.encode(text)]), table, 1.0, seed=1)
    spelled = b"".join(tokenizer.token_bytes[i] for i in result.tokens).decode().lstrip()
    assert spelled == text.replace("see the (the)", "see DIE (DIE)")
    assert result.counts.covered == 2 and result.counts.words > 10


def test_given_keys_are_used(bpe: Tokenizer, documents: list[str]) -> None:
    tokens, offsets = pack(bpe.encode_batch(documents[:5]))
    keys = document_keys(tokens, offsets)
    plain = codeswitch(tokens, offsets, real_table(bpe), 0.5, 1)
    assert np.array_equal(plain.tokens, codeswitch(tokens, offsets, real_table(bpe), 0.5, 1, keys=keys).tokens)
    other = codeswitch(tokens, offsets, real_table(bpe), 0.5, 1, keys=keys + np.uint64(1))
    assert not np.array_equal(plain.records, other.records)
