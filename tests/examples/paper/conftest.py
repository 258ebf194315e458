"""Real English text and tokenizers trained on it."""

import ast
import json
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from megatron_prealign.text.tokenizer_training import train_byte_level_bpe

NUM_CHARACTERS = 400_000


@pytest.fixture(scope="session")
def docstrings() -> list[str]:
    """Return docstrings of the standard library, a document a module."""
    documents: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found = [text for node in nodes if isinstance(node, kinds) and (text := ast.get_docstring(node, clean=False))]
        documents.append("\n\n".join(found))
        if sum(map(len, documents)) > NUM_CHARACTERS:
            return documents
    raise AssertionError(f"the standard library has only {sum(map(len, documents))} characters of docstrings")


@pytest.fixture(scope="session")
def base_tokenizer(docstrings: list[str]) -> dict[str, Any]:
    """Return the tokenizer.json of a byte-level BPE tokenizer as the project trains it with --clonable."""
    special = ["<|endoftext|>", "<|pad|>"]
    tokenizer = train_byte_level_bpe(iter(docstrings), 1500, special, is_clonable=True)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content


@pytest.fixture(scope="session")
def train_with(docstrings: list[str]) -> Callable[[Sequence[pre_tokenizers.PreTokenizer | str]], dict[str, Any]]:
    """Return a function that trains with other pre-tokenizer steps (a text is a pattern to split by)."""

    def train(steps: Sequence[pre_tokenizers.PreTokenizer | str]) -> dict[str, Any]:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(s), behavior="isolated") if isinstance(s, str) else s for s in steps]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(docstrings[:20], trainer)
        content: dict[str, Any] = json.loads(tokenizer.to_str())
        return content

    return train
