"""gigatoken is taken where a tokenizer's features allow it, and texts that it would encode otherwise go elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from sentencepiece import SentencePieceTrainer
from tokenizers import pre_tokenizers

from megatron_prealign.text import backends
from megatron_prealign.text.backends import GigatokenEncoder, make_encoder, unlike_parts, why_not_gigatoken
from megatron_prealign.text.encoders import Encoder, ReferenceEncoder
from megatron_prealign.text.sentencepiece_conversion import convert_sentencepiece
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.text.tokenizer_json import LLAMA_3, QWEN_2, QWEN_3_5

gigatoken = pytest.importorskip("gigatoken")

# Decomposed Vietnamese, half-width and decomposed kana, conjoining Hangul letters.
DECOMPOSED = ("vie\u0323\u0302t", "\uff76\uff9e", "\u1112\u1161\u11ab", "\u304b\u3099")


def split_by(pattern: str, behavior: str = "isolated", use_regex: bool = False) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


@pytest.fixture(scope="module")
def variant(bpe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tokenizer]:
    """Return what loads the tokenizer of `bpe_folder` with other parts; `model` changes fields of the model."""

    def make(pre_tokenizer: pre_tokenizers.PreTokenizer | None, model: Any = None, **parts: Any) -> Tokenizer:
        path = tmp_path_factory.mktemp("variant") / "tokenizer.json"
        tokenizer = tokenizers.Tokenizer.from_file(str(bpe_folder / "tokenizer.json"))
        tokenizer.pre_tokenizer = pre_tokenizer
        definition = json.loads(tokenizer.to_str()) | parts
        definition["model"] |= model or {}
        path.write_text(json.dumps(definition), encoding="utf-8")
        return load_tokenizer(path)

    return make


def assert_same(encoder: Encoder, tokenizer: Tokenizer, texts: list[str]) -> None:
    for mine, theirs in zip(encoder.encode(texts), ReferenceEncoder(tokenizer).encode(texts), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("pattern", [LLAMA_3, QWEN_2, QWEN_3_5])
@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}, {"type": "Sequence", "normalizers": []}])
def test_known_tokenizers_get_gigatoken(variant: Callable[..., Tokenizer], pattern: str, normalizer: Any) -> None:
    assert why_not_gigatoken(variant(split_by(pattern), normalizer=normalizer)) is None


UNLIKE: dict[str, tuple[pre_tokenizers.PreTokenizer | None, dict[str, Any], str]] = {
    "no pre-tokenizer": (None, {}, "pre_tokenizer"),
    "no split": (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), {}, "pre_tokenizer"),
    "split twice": (split_by(LLAMA_3, use_regex=True), {}, "pre_tokenizer"),
    "white space joined": (split_by(LLAMA_3, "merged_with_next"), {}, "pre_tokenizer"),
    "digits": (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), *split_by(LLAMA_3)]),
        {},
        "pre_tokenizer",
    ),
    "dropout": (split_by(LLAMA_3), {"model": {"dropout": 0.5}}, "dropout"),
    "suffix": (split_by(LLAMA_3), {"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
    "compatibility forms": (split_by(LLAMA_3), {"normalizer": {"type": "NFKC"}}, "normalizer"),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_what_gigatoken_passes_over_is_named(kind: str, variant: Callable[..., Tokenizer]) -> None:
    pre_tokenizer, parts, part = UNLIKE[kind]
    assert unlike_parts(variant(pre_tokenizer, **parts).definition) == [part]


@pytest.fixture(scope="module")
def normalising(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> Tokenizer:
    """A SentencePiece BPE with the default normaliser, nmt_nfkc."""
    prefix = tmp_path_factory.mktemp("normalising") / "small"
    lines = [line for text in documents[:10] for line in text.splitlines()] + ["việt ガ 한 が カ"] * 9
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(prefix),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return load_tokenizer(f"{prefix}.model")


def test_a_normaliser_is_refused_by_its_name_and_by_the_probe(
    normalising: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not apply this tokenizer's normalizer" in str(why_not_gigatoken(normalising))
    monkeypatch.setattr(backends, "unlike_parts", lambda definition: [])
    assert "ids differ" in str(why_not_gigatoken(normalising))
    encoder = GigatokenEncoder(normalising, is_parallel=False)
    assert all(encoder.encode([text])[0].tolist() != normalising.encode(text) for text in DECOMPOSED[:3])


@pytest.mark.parametrize("step", ["Strip", "Precompiled", "Lowercase"])
def test_steps_that_depend_on_versions_are_refused(step: str, sentencepiece_path: Path) -> None:
    definition = json.loads(convert_sentencepiece(sentencepiece_path, {}).to_str())
    assert unlike_parts(definition) == []
    definition["normalizer"]["normalizers"].append({"type": step})
    assert unlike_parts(definition) == ["normalizer"]


def test_characters_of_other_versions_of_unicode_go_to_the_reference(variant: Callable[..., Tokenizer]) -> None:
    tokenizer = variant(split_by(QWEN_2), normalizer={"type": "NFC"})
    encoder = make_encoder(tokenizer, "gigatoken", is_parallel=False)
    assert isinstance(encoder, GigatokenEncoder)
    # A Lao and a Telugu mark of Unicode 12 and 14 before one of a lower class, and next to characters never assigned.
    texts = ["a\u0eba\u0334b", "plain", "\u0c3c\u0334 ", *DECOMPOSED, "\u0378\U0001fbfa", "é", "", "\u1ac3\u0334"]
    assert_same(encoder, tokenizer, texts)
    assert encoder._are_apart(texts).tolist() == [True, False, True, *[False] * 4, True, False, False, True]
    assert encoder._encode(texts[:1])[0].tolist() != tokenizer.encode(texts[0])


def test_added_tokens_that_normalising_completes_go_to_the_reference(variant: Callable[..., Tokenizer]) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    # Composed: gigatoken also finds it in decomposed text, at the beginning of which it is not normalised.
    for content, normalized, is_exact in (("<K>", True, True), ("<é>", True, False), ("사용자", False, False)):
        added = [{"id": 2000, "content": content, **flags, "normalized": normalized}]
        tokenizer = variant(split_by(QWEN_2), normalizer={"type": "NFC"}, added_tokens=added)
        assert (why_not_gigatoken(tokenizer) is None) == is_exact
        if is_exact:
            encoder = make_encoder(tokenizer, "gigatoken", is_parallel=False)
            assert tokenizer.encode("a<\u212a>") == [*tokenizer.encode("a"), 2000]
            assert_same(encoder, tokenizer, ["a<\u212a>", "b", "a<K>", "K \u212a c"])


@pytest.mark.parametrize("is_parallel", [False, True])
def test_the_encoder_is_renewed_and_ids_stay_equal(
    bpe: Tokenizer, documents: list[str], is_parallel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_CHARACTERS_OF_A_CACHE", 100_000)
    monkeypatch.setattr(backends, "_MAX_CHARACTERS_IN_PARALLEL", 20_000)
    loaded = []
    from_json = gigatoken.Tokenizer.from_json
    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", lambda text: loaded.append(text) or from_json(text))
    encoder = GigatokenEncoder(bpe, is_parallel)
    for start in range(0, len(documents), 5):
        assert_same(encoder, bpe, documents[start : start + 5])
    assert len(loaded) == 1 + sum(map(len, documents)) // 100_000 or len(loaded) > 3
    assert len(set(loaded)) == 1


def test_user_defined_pieces_go_to_the_reference(tmp_path: Path, documents: list[str]) -> None:
    SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in documents[:10] for line in text.splitlines()]),
        model_prefix=str(tmp_path / "small"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<mark>", "ss"],
        minloglevel=2,
    )
    tokenizer = load_tokenizer(tmp_path / "small.model")
    assert why_not_gigatoken(tokenizer) is None
    encoder = make_encoder(tokenizer, "gigatoken", is_parallel=False)
    assert_same(encoder, tokenizer, ["a<mark> b<mark>c", "plain text", "assess</s><unk>"])
