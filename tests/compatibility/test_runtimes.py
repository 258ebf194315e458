"""Exported folders in other runtimes: the ids of the tokenizer and greedy tokens of transformers, on a CPU in fp32."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.checkpoint.languages import lines_of_ten_languages
from tests.compatibility.runtime_folders import MODELS, NUM_NEW_TOKENS, PROMPTS, Exported, make_exported, make_tokenizer

pytestmark = pytest.mark.runtimes


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return make_exported(request.param, tokenizer_path, tmp_path_factory.mktemp("exported"))


def needs(*packages: str) -> None:
    """Skip a test whose runtime is not installed."""
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed (make test-runtimes installs it)")


def test_ctranslate2(exported: Exported, tmp_path: Path) -> None:
    needs("ctranslate2")
    import ctranslate2

    ctranslate2.converters.TransformersConverter(str(exported.path)).convert(str(tmp_path / "converted"))
    generator = ctranslate2.Generator(str(tmp_path / "converted"), device="cpu", compute_type="float32")
    tokenizer = AutoTokenizer.from_pretrained(exported.path)
    tokens = json.loads((tmp_path / "converted" / "vocabulary.json").read_text(encoding="utf-8"))
    assert tokens == tokenizer.convert_ids_to_tokens(range(len(tokens)))
    for ids, expected in zip(exported.ids, exported.continuations, strict=True):
        (result,) = generator.generate_batch(
            [[tokens[index] for index in ids]],
            max_length=NUM_NEW_TOKENS,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        assert result.sequences_ids[0][: len(expected)] == expected
