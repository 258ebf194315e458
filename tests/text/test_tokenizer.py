"""The tokenizer wrapper against the libraries it wraps, on a trained BPE and a published SentencePiece model."""

import base64
import json
import re
import shutil
from pathlib import Path

import mistral_common
import pytest
import sentencepiece as sentencepiece_library
import tokenizers

from megatron_prealign.errors import DataError
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer


def test_plain_text_gives_the_library_ids(
    bpe: Tokenizer, bpe_folder: Path, sentencepiece: Tokenizer, sentencepiece_path: Path, documents: list[str]
) -> None:
    text = documents[0]
    reference = tokenizers.Tokenizer.from_file(str(bpe_folder / "tokenizer.json"))
    assert bpe.encode(text) == reference.encode(text, add_special_tokens=False).ids
    processor = sentencepiece_library.SentencePieceProcessor(model_file=str(sentencepiece_path))
    assert sentencepiece.encode(text) == processor.encode(text)


def test_batches_and_words_equal_single_calls(tokenizer: Tokenizer, documents: list[str]) -> None:
    texts = [*documents[:5], "", "\n"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    words = ["bank", "银行", "Straße", "statement"]
    for spaced in (True, False):
        assert tokenizer.encode_words(words, spaced) == [tokenizer.encode_word(word, spaced) for word in words]


def test_token_bytes_spell_the_text(tokenizer: Tokenizer, documents: list[str]) -> None:
    for text in [*documents[:10], "Die Straße 银行 банк 😀\t\x00"]:
        spelled = b"".join(tokenizer.token_bytes[i] for i in tokenizer.encode(text)).decode("utf-8")
        assert spelled.removeprefix(" ") == text.removeprefix(" ")


@pytest.mark.parametrize("word", ["bank", "statement", "Straße", "банк", "银行", "zxqvw"])
def test_words_are_encoded_as_inside_running_text(tokenizer: Tokenizer, word: str) -> None:
    spaced = tokenizer.encode_word(word, spaced=True)
    unspaced = tokenizer.encode_word(word, spaced=False)
    assert b"".join(tokenizer.token_bytes[i] for i in spaced).decode("utf-8") == f" {word}"
    assert b"".join(tokenizer.token_bytes[i] for i in unspaced).decode("utf-8") == word
    behind_a_space = tokenizer.encode(f"the {word}")
    assert behind_a_space[-len(spaced) :] == spaced
    behind_a_line_break = tokenizer.encode(f"the\n{word}")
    assert behind_a_line_break[-len(unspaced) :] == unspaced


def test_special_strings_in_text_stay_text(bpe: Tokenizer, sentencepiece: Tokenizer) -> None:
    for tokenizer, text in ((bpe, "a<|endoftext|>b"), (sentencepiece, "a</s>b<s>")):
        ids = tokenizer.encode(text)
        assert not tokenizer.special_ids & set(ids)
        assert tokenizer.decode(ids) == text
        assert all(tokenizer.token_bytes[i] == b"" for i in tokenizer.special_ids)


def test_special_tokens_are_named(bpe: Tokenizer, sentencepiece: Tokenizer) -> None:
    assert bpe.eod_id == 0 and bpe.bos_id is None and bpe.vocab_size == 2000
    assert (sentencepiece.bos_id, sentencepiece.eod_id, sentencepiece.vocab_size) == (1, 2, 32000)
    assert sentencepiece.special_ids == {0, 1, 2}


def test_fingerprint_is_of_content_not_of_formatting(bpe: Tokenizer, bpe_folder: Path, tmp_path: Path) -> None:
    definition = json.loads((bpe_folder / "tokenizer.json").read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition, indent=7), encoding="utf-8")
    assert load_tokenizer(path).fingerprint == bpe.fingerprint
    assert load_tokenizer(path).eod_id == 0  # well known, although no tokenizer_config.json says so
    definition["model"]["merges"].pop()
    path.write_text(json.dumps(definition), encoding="utf-8")
    assert load_tokenizer(path).fingerprint != bpe.fingerprint


def test_stored_truncation_is_off(bpe: Tokenizer, bpe_folder: Path, tmp_path: Path, documents: list[str]) -> None:
    stored = tokenizers.Tokenizer.from_file(str(bpe_folder / "tokenizer.json"))
    stored.enable_truncation(8)
    stored.enable_padding(length=16)
    stored.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode(documents[0]) == bpe.encode(documents[0])


def test_unusable_files_are_refused(bpe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "absent.json")
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"half": ', encoding="utf-8")
    with pytest.raises(DataError, match="not a Hugging Face"):
        load_tokenizer(tmp_path)
    (tmp_path / "broken.model").write_bytes(b"\x00\x01broken")
    with pytest.raises(DataError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path / "broken.model")
    shutil.copy(bpe_folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<gone>"}', encoding="utf-8")
    with pytest.raises(DataError, match=re.escape("'<gone>' is not in the vocabulary")):
        load_tokenizer(tmp_path)
    word_level = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    word_level.save(str(tmp_path / "wordpiece.json"))
    with pytest.raises(DataError, match="neither a byte-level BPE"):
        load_tokenizer(tmp_path / "wordpiece.json")


def test_formats_of_others_are_named(tmp_path: Path, documents: list[str]) -> None:
    tekken = Path(mistral_common.__file__).parent / "data/tekken_240911.json"
    with pytest.raises(DataError, match=r"tekken_240911\.json: a tekken vocabulary .* use the tokenizer\.json"):
        load_tokenizer(tekken)
    ranks = b"".join(base64.b64encode(bytes([byte])) + f" {byte}\n".encode() for byte in range(256))
    for name in ("o200k.tiktoken", "tokenizer.model"):
        (tmp_path / name).write_bytes(ranks)
        with pytest.raises(DataError, match=rf"{name}: a tiktoken vocabulary, .* use the tokenizer\.json"):
            load_tokenizer(tmp_path / name)
    with pytest.raises(DataError, match=r"^s3://bucket/tok: only files of this machine are read"):
        load_tokenizer("s3://bucket/tok")
    sentencepiece_library.SentencePieceTrainer.train(
        sentence_iterator=iter(documents[0].splitlines()),
        model_prefix=str(tmp_path / "suffix"),
        vocab_size=100,
        hard_vocab_limit=False,
        treat_whitespace_as_suffix=True,
        minloglevel=2,
    )
    with pytest.raises(DataError, match=r"suffix\.model: trained with treat_whitespace_as_suffix"):
        load_tokenizer(tmp_path / "suffix.model")
