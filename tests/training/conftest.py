"""Data that several tests of training share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_prealign.text.tokenizer import load_tokenizer
from tests.dataset.baked import random_documents, write_baked


@pytest.fixture(scope="session")
def two_languages(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A blend of three datasets of two languages, the one of which has no switches."""
    folder, tokenizer = tmp_path_factory.mktemp("blend"), load_tokenizer(workspace / "tok")
    entries = []
    for number, (language, ratio) in enumerate([("en", 0.3), ("de", 0.0), ("en", 0.5)]):
        documents = random_documents(np.random.default_rng(number), 80, tokenizer.vocab_size, 100, ratio)
        prefix = write_baked(folder / str(number), documents, tokenizer.vocab_size, tokenizer.fingerprint)
        entries.append({"prefix": prefix, "language": language})
    return entries
