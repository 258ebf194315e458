"""Real text and real tokenizers for the tests of the bake; all of it is part of Python or brought by pip."""

import json
import pydoc_data.topics
from importlib.resources import files
from pathlib import Path

import pytest
import tokenizers
from sentencepiece import SentencePieceTrainer
from tokenizers import decoders, models, pre_tokenizers, trainers

from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """About 80 documents of English prose and code: the topics of Python's own help."""
    return [text for _, text in sorted(pydoc_data.topics.topics.items())]


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> Path:
    """A byte-level BPE of 2,000 tokens in a Hugging Face folder, with <|endoftext|> as its end of document."""
    folder = tmp_path_factory.mktemp("bpe")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    foreign = [
        "Die Bank steht am Fluß, die Straße ist lang.",
        "银行在河边。",
        "Банк стоит под дождём.",
        "‘bank’ “bank” «bank» bank… a—b–c",
    ]
    tokenizer.train_from_iterator(documents + foreign * 300, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def bpe(bpe_folder: Path) -> Tokenizer:
    """The tokenizer of `bpe_folder`."""
    return load_tokenizer(bpe_folder)


@pytest.fixture(scope="session")
def sentencepiece_path() -> Path:
    """The 32,000-token SentencePiece model of Mistral 7B."""
    return Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))


@pytest.fixture(scope="session")
def sentencepiece(sentencepiece_path: Path) -> Tokenizer:
    """The tokenizer of `sentencepiece_path`."""
    return load_tokenizer(sentencepiece_path)


@pytest.fixture(scope="session")
def sentencepiece_without_bytes(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> Tokenizer:
    """A small SentencePiece model that knows the characters of English text and nothing else."""
    prefix = tmp_path_factory.mktemp("sentencepiece") / "small"
    SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in documents[:10] for line in text.splitlines()] + ["Ufer"] * 5),
        model_prefix=str(prefix),
        vocab_size=300,
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return load_tokenizer(f"{prefix}.model")


@pytest.fixture(params=["bpe", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each of the two kinds of tokenizer in turn."""
    loaded: Tokenizer = request.getfixturevalue(request.param)
    return loaded
