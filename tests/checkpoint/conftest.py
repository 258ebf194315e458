"""Tokenizers, models and configurations that the tests of this folder share."""

import json
import pydoc_data.topics
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from megatron_prealign.config import ParallelConfig
from megatron_prealign.platform import (
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
    shut_down_distributed,
)

END_OF_DOCUMENT = "<|endoftext|>"


@pytest.fixture(scope="session")
def prose() -> list[str]:
    """English text that comes with Python."""
    return [text for _, text in sorted(pydoc_data.topics.topics.items())]


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory, prose: list[str]) -> Path:
    """A byte-level BPE whose end-of-document token has id 0 and whose vocabulary is no multiple of 16."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=501,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(prose, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "eos_token": {"content": END_OF_DOCUMENT, "__type": "AddedToken"},
        "chat_template": "{{ messages[0].content }}",
        "extra_special_tokens": [],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def one_rank() -> Iterator[torch.device]:
    """Make this process a group of one; its device."""
    platform = select_platform("cpu")
    initialize_distributed(platform)
    initialize_model_parallel(ParallelConfig(), seed=1)
    yield platform.device
    shut_down_distributed()
