"""Settings beside a tokenizer: a SentencePiece folder against transformers, and a named end-of-document token."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.errors import DataError
from megatron_prealign.text.frame import DocumentFrame, document_frame
from megatron_prealign.text.tokenizer import load_tokenizer

CHAT_END = "<|im_end|>"
NAMED = {"content": "</s>", "special": True, "__type": "AddedToken"}
LISTED = {
    "0": {"content": "<unk>", "special": True},
    "1": {"content": "<s>", "special": True},
    "2": {"content": "</s>", "special": True},
    "32000": {"content": CHAT_END, "special": True},
}
FOLDERS: dict[str, dict[str, dict[str, Any]]] = {
    "nothing": {},
    "no setting that counts": {"tokenizer_config": {"chat_template": "x"}},
    "names": {"tokenizer_config": {"eos_token": "<s>", "bos_token": NAMED, "add_bos_token": True}},
    "listed tokens": {
        "tokenizer_config": {"eos_token": CHAT_END, "add_bos_token": True, "added_tokens_decoder": LISTED},
        # Older files do not count beside a list.
        "special_tokens_map": {"eos_token": "</s>"},
        "added_tokens": {"<gone>": 32001},
    },
    "older files": {
        "tokenizer_config": {"eos_token": "</s>", "add_bos_token": False},
        "special_tokens_map": {"eos_token": {"content": CHAT_END}, "additional_special_tokens": ["<a>", "<b>"]},
        "added_tokens": {"<b>": 32002, CHAT_END: 32000, "<a>": 32001},
    },
}


def make_folder(folder: Path, model: Path, files: dict[str, dict[str, Any]]) -> Path:
    shutil.copy(model, folder / "tokenizer.model")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_a_sentencepiece_folder_is_read_as_transformers_reads_it(
    name: str, sentencepiece_path: Path, tmp_path: Path
) -> None:
    from transformers import LlamaTokenizer

    folder = make_folder(tmp_path, sentencepiece_path, FOLDERS[name])
    found, expected = load_tokenizer(folder), LlamaTokenizer.from_pretrained(folder)
    assert (found.bos_id, found.eod_id) == (expected.bos_token_id, expected.eos_token_id)
    assert found.vocab_size == len(expected)
    start = expected("The bank")["input_ids"]
    assert document_frame(found).start + found.encode("The bank") == start
    for token, index in expected.get_added_vocab().items():
        assert found.token_id(token) == index and index in found.special_ids
        assert found.token_bytes[index] == b""


def test_special_tokens_of_the_settings_stay_text_and_change_the_fingerprint(
    sentencepiece_path: Path, tmp_path: Path
) -> None:
    alone = load_tokenizer(make_folder(tmp_path, sentencepiece_path, {}))
    grown = load_tokenizer(make_folder(tmp_path, sentencepiece_path, FOLDERS["older files"]))
    assert grown.encode(f"a {CHAT_END}") == alone.encode(f"a {CHAT_END}")
    assert grown.decode([*grown.encode("a b"), 32000]) == "a b"
    assert alone.fingerprint == load_tokenizer(sentencepiece_path).fingerprint != grown.fingerprint


def test_settings_that_cannot_be_followed_are_refused(sentencepiece_path: Path, tmp_path: Path) -> None:
    make_folder(tmp_path, sentencepiece_path, {"added_tokens": {"<plain>": 32000}})
    with pytest.raises(DataError, match=r"adds the tokens '<plain>' without marking them as special"):
        load_tokenizer(tmp_path)
    make_folder(tmp_path, sentencepiece_path, {"added_tokens": {"<plain>": "x"}})
    with pytest.raises(DataError, match=r"added_tokens\.json: the added tokens are not a mapping"):
        load_tokenizer(tmp_path)
    make_folder(tmp_path, sentencepiece_path, {"added_tokens": {}, "special_tokens_map": {"eos_token": "<gone>"}})
    with pytest.raises(DataError, match=r"special_tokens_map\.json: eos_token '<gone>' is not in the vocabulary"):
        load_tokenizer(tmp_path)
    make_folder(tmp_path, sentencepiece_path, {"special_tokens_map": {"eos_token": 2}})
    with pytest.raises(DataError, match=r"special_tokens_map\.json: eos_token is 2, not a string"):
        load_tokenizer(tmp_path)


def test_the_end_of_a_document_can_be_named(bpe_folder: Path, sentencepiece_path: Path, tmp_path: Path) -> None:
    definition = json.loads((bpe_folder / "tokenizer.json").read_text(encoding="utf-8"))
    more = definition["added_tokens"][0] | {"id": 2000, "content": CHAT_END}
    definition["added_tokens"] += [more, more | {"id": 2001, "content": "<plain>", "special": False}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": CHAT_END}), encoding="utf-8")
    plain, named = load_tokenizer(tmp_path), load_tokenizer(tmp_path, "<|endoftext|>")
    assert (plain.eod_id, named.eod_id, named.fingerprint) == (2000, 0, plain.fingerprint)
    assert document_frame(named, "always") == DocumentFrame(None, 0)
    for token in ("<plain>", "bank", "<gone>"):
        with pytest.raises(DataError, match=rf"'{token}' can't end documents: .*as <\|endoftext\|>, <\|im_end\|> are"):
            load_tokenizer(tmp_path, token)
    with pytest.raises(DataError, match="can't end documents"):
        load_tokenizer(tmp_path, "\udcff")  # an argument of bytes that are not UTF-8
    assert load_tokenizer(sentencepiece_path, "<s>").eod_id == 1
    with pytest.raises(DataError, match="'<gone>' can't end documents"):
        load_tokenizer(sentencepiece_path, "<gone>")
