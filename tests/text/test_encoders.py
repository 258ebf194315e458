"""Looking chunks up gives the ids of the tokenizer's own library, and is done only where it must."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from megatron_prealign.text import encoders
from megatron_prealign.text.backends import make_encoder
from megatron_prealign.text.encoders import ChunkedEncoder, ReferenceEncoder
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE_TOKENIZERS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "prefix": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "llama3": split_by(LLAMA_3),
}
PIECES = st.sampled_from(
    [*" \n\t\r\u00a0\u2003\x1c'.,(-1²aZñ字ग\u0301🙂", "  ", "the", "'s", " of", "<|endoftext|>", "don't"]
)
TEXTS = st.lists(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=12), max_size=4)


@pytest.fixture(scope="module")
def variant(bpe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tokenizer]:
    """Return what loads the tokenizer of `bpe_folder` with another pre-tokenizer, or other parts."""

    def make(pre_tokenizer: pre_tokenizers.PreTokenizer, **parts: Any) -> Tokenizer:
        path = tmp_path_factory.mktemp("variant") / "tokenizer.json"
        tokenizer = tokenizers.Tokenizer.from_file(str(bpe_folder / "tokenizer.json"))
        tokenizer.pre_tokenizer = pre_tokenizer
        path.write_text(json.dumps(json.loads(tokenizer.to_str()) | parts), encoding="utf-8")
        return load_tokenizer(path)

    return make


@pytest.fixture(scope="module")
def split_tokenizers(variant: Callable[..., Tokenizer]) -> list[Tokenizer]:
    """Tokenizers whose parts begin at spaces."""
    plain = [variant(pre_tokenizer) for pre_tokenizer in PRE_TOKENIZERS.values()]
    return [*plain, variant(PRE_TOKENIZERS["gpt2"], normalizer={"type": "NFC"})]


@given(batches=st.lists(TEXTS, min_size=1, max_size=3))
def test_chunks_give_the_ids_of_whole_texts(split_tokenizers: list[Tokenizer], batches: list[list[str]]) -> None:
    for tokenizer in split_tokenizers:
        assert tokenizer.splits_at_spaces
        chunked, reference = ChunkedEncoder(tokenizer), ReferenceEncoder(tokenizer)
        for texts in batches:
            texts = [text.encode("utf-8", "ignore").decode() for text in texts]
            for mine, theirs in zip(chunked.encode(texts), reference.encode(texts), strict=True):
                np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("max_tokens", [10, 1 << 19])
def test_a_full_table_begins_anew(
    bpe: Tokenizer, documents: list[str], max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "_MAX_TOKENS", max_tokens)
    encoder = make_encoder(bpe, "reference", is_parallel=False)
    assert isinstance(encoder, ChunkedEncoder)
    asked: list[str] = []
    encode_batch = bpe.encode_batch
    monkeypatch.setattr(bpe, "encode_batch", lambda texts: asked.extend(texts) or encode_batch(texts))
    for start in (0, 20, 0):
        ids, lengths = encoder.encode(documents[start : start + 20])
        np.testing.assert_array_equal(lengths, list(map(len, encode_batch(documents[start : start + 20]))))
        np.testing.assert_array_equal(ids, np.concatenate(encode_batch(documents[start : start + 20])))
    words = [text for text in asked if text == " the"]
    assert len(words) == (3 if max_tokens == 10 else 1)


@pytest.mark.parametrize(
    ("pre_tokenizer", "parts"),
    [
        (split_by(r"\p{L}+ \p{L}+|\s+"), {}),
        (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), {}),
        (PRE_TOKENIZERS["gpt2"], {"normalizer": {"type": "Lowercase"}}),
        (PRE_TOKENIZERS["gpt2"], {"added_tokens": "new york"}),
    ],
    ids=["words are joined", "nothing is split", "another normaliser", "an added token with a space"],
)
def test_other_tokenizers_get_whole_texts(
    variant: Callable[..., Tokenizer], pre_tokenizer: pre_tokenizers.PreTokenizer, parts: dict[str, Any]
) -> None:
    if "added_tokens" in parts:
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        parts = {"added_tokens": [{"id": 2000, "content": parts["added_tokens"], **flags}]}
    assert isinstance(make_encoder(variant(pre_tokenizer, **parts), "reference", is_parallel=False), ReferenceEncoder)


def test_a_sentencepiece_model_gets_whole_texts(sentencepiece: Tokenizer) -> None:
    assert isinstance(make_encoder(sentencepiece, "reference", is_parallel=False), ReferenceEncoder)
