"""Every encoder that `auto` may take, and the exported folder, give the ids of the tokenizer's own library.

The short form runs always; PREALIGN_FUZZ_TEXTS=10000 sets the number of texts for each tokenizer (about an hour).
"""

import os
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from megatron_prealign.checkpoint.huggingface.tokenizer import TrainedTokenizer, check_tokenizer, write_tokenizer
from megatron_prealign.config import DataConfig
from megatron_prealign.errors import PrealignError
from megatron_prealign.text.backends import Backend, make_encoder, why_not_gigatoken
from megatron_prealign.text.encoders import Encoder
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.text.tokenizer_training import train_byte_level_bpe, train_sentencepiece
from tests.checkpoint.languages import lines_of_ten_languages
from tests.real_tokenizers import NAMES, published_tokenizer
from tests.text.odd_texts import odd_texts

NUM_TEXTS = int(os.environ.get("PREALIGN_FUZZ_TEXTS", "200"))
OWN = ("own BPE", "own clonable BPE", "own SentencePiece")
WITH_GIGATOKEN = {
    *("deepseek_v3", "gemma3", "gpt4o", "llama2", "llama3", "qwen3"),
    *("tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3", "own BPE", "own SentencePiece"),
}
# dzoseg normalises, which transformers does differently.
EXPORTED = {*NAMES, *OWN} - {"dzoseg"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> dict[str, Path]:
    """The kinds of tokenizers of tools/train_tokenizer.py."""
    folder = tmp_path_factory.mktemp("own")
    texts = [*documents[:20], *lines_of_ten_languages()]
    paths = [folder / "bpe/tokenizer.json", folder / "clonable/tokenizer.json", folder / "own.model"]
    for path in paths[:2]:
        path.parent.mkdir()
        own_bpe = train_byte_level_bpe(iter(texts), 3000, ["<|endoftext|>"], is_clonable=path.parent.name == "clonable")
        path.write_text(own_bpe.to_str())
    paths[2].write_bytes(train_sentencepiece(iter(texts), 3000, ["</s>"]))
    return dict(zip(OWN, paths, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *OWN])
def test_every_encoder_gives_the_references_ids(
    name: str, own: dict[str, Path], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = own[name] if name in own else published_tokenizer(name, request.config.cache)
    tokenizer = load_tokenizer(path)
    texts = list(odd_texts(NUM_TEXTS, seed=len(name)))
    expected = [tokenizer.encode(text) for text in texts]
    backends: list[Backend] = ["reference"]
    if why_not_gigatoken(tokenizer) is None:
        backends.append("gigatoken")
    assert ("gigatoken" in backends) == (name in WITH_GIGATOKEN)
    for backend in backends:
        for is_parallel in {False, backend == "gigatoken"}:
            encoder = make_encoder(tokenizer, backend, is_parallel)
            for size in (7, 100):
                batches = (texts[start : start + size] for start in range(0, len(texts), size))
                found = [ids for batch in batches for ids in rows(encoder, batch)]
                assert differing(texts, found, expected) == []
    assert (exported_differences(tokenizer, texts, expected, tmp_path / "export") == []) == (name in EXPORTED)


def rows(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    ids, lengths = encoder.encode(texts)
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def differing(texts: list[str], found: list[list[int]], expected: list[list[int]]) -> list[str]:
    return [ascii(text) for text, mine, theirs in zip(texts, found, expected, strict=True) if mine != theirs]


def exported_differences(tokenizer: Tokenizer, texts: list[str], expected: list[list[int]], folder: Path) -> list[str]:
    """Return texts whose ids differ after export, or why it is refused; special tokens in text differ by rule."""
    folder.mkdir()
    try:
        trained = TrainedTokenizer.load(tokenizer.path, DataConfig())
        write_tokenizer(trained, folder, model_max_length=77)
        check_tokenizer(trained, folder, tokenizer.vocab_size)
    except PrealignError as error:
        return [str(error)]
    exported = AutoTokenizer.from_pretrained(folder)
    added = exported.added_tokens_decoder.values()
    spelt = {str(token) for token in added if token.special or not tokenizer.definition}
    plain = [number for number, text in enumerate(texts) if not any(token in text for token in spelt)]
    found = [list(exported(texts[number], add_special_tokens=False)["input_ids"]) for number in plain]
    return differing([texts[number] for number in plain], found, [expected[number] for number in plain])
