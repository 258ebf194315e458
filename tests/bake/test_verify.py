"""Planted corruptions are found, good data passes; inspection shows what was switched."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_prealign.bake.inspection import inspect_document
from megatron_prealign.bake.verify import verify
from megatron_prealign.dataset.manifest import Manifest, manifest_path
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import read_lexicon
from megatron_prealign.text.tokenizer import Tokenizer
from tests.bake.damage import edit, put
from tests.dataset.baked import bake_switched

SUFFIXES = (".bin", ".idx", ".switch.bin", ".switch.idx")
TEXTS = ["the bank is here", "", "is the statement of the bank", "class", "the the the"]


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory, bpe_folder: Path) -> Path:
    """A folder with a small bake in which every covered word is switched."""
    folder = tmp_path_factory.mktemp("verify") / "baked"
    bake_switched(folder, bpe_folder, TEXTS)
    return folder


@pytest.fixture
def prefix(baked: Path, tmp_path: Path) -> Path:
    """A copy of the bake that a test may damage."""
    shutil.copytree(baked, tmp_path / "copy")
    return tmp_path / "copy" / "en_text_document"


def test_good_data_passes(prefix: Path, bpe: Tokenizer) -> None:
    assert verify(prefix) == verify(prefix, bpe) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_flipped_bit_is_found(prefix: Path, suffix: str) -> None:
    size = Path(f"{prefix}{suffix}").stat().st_size
    for offset in np.random.default_rng(5).choice(size, 12, replace=False).tolist():
        edit(prefix, suffix, lambda data, at=offset: put("<B", at, data[at] ^ 4)(data), rehash=False)
        assert verify(prefix), offset
        edit(prefix, suffix, lambda data, at=offset: put("<B", at, data[at] ^ 4)(data), rehash=False)
    assert verify(prefix) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["truncated", "longer", "missing"])
def test_wrong_sizes_are_found(prefix: Path, suffix: str, damage: str) -> None:
    path = Path(f"{prefix}{suffix}")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2] if damage == "truncated" else path.read_bytes() + b"\0\0")
    assert any(path.name in problem for problem in verify(prefix))


# The first record stands for "the" at the start of the first document, the second follows it at once.
@pytest.mark.parametrize(
    ("suffix", "code", "offset", "value", "message"),
    [
        (".bin", "<H", 0, 2000, "ids from 0 to 2000"),
        (".bin", "<H", -2, 7, "do not end with the token 0"),
        (".idx", "<i", 34, 1, "add up|running sum"),
        (".switch.bin", "<i", 0, -1, "extend beyond their sequence"),
        (".switch.bin", "<i", 4, 0, "extend beyond their sequence"),
        (".switch.bin", "<i", 4, 3, "overlap"),
        (".switch.bin", "<i", 4, 1000, "extend beyond their sequence"),
        (".switch.bin", "<i", 8, 2000, "outside the vocabulary"),
        (".switch.bin", "<i", 8, 0, "special token as label"),
        (".switch.bin", "<i", 12, 3, "not in the lexicon"),
        (".switch.bin", "<i", 16, 0, "overlap"),
        (".switch.idx", "<B", 17, 8, "add up|running sum"),
    ],
)
def test_wrong_content_with_right_hashes_is_found(
    prefix: Path, bpe: Tokenizer, suffix: str, code: str, offset: int, value: int, message: str
) -> None:
    size = Path(f"{prefix}{suffix}").stat().st_size
    edit(prefix, suffix, put(code, offset % size, value), rehash=True)
    problems = verify(prefix, bpe)
    assert any(part in problem for problem in problems for part in message.split("|")), problems


@pytest.mark.parametrize("name", ["documents", "sequences", "tokens", "switched", "switched_tokens"])
def test_wrong_counts_are_found(prefix: Path, name: str) -> None:
    whole = json.loads(manifest_path(prefix).read_text(encoding="utf-8"))
    whole["content"]["counts"][name] += 1
    manifest_path(prefix).write_text(Manifest(whole["content"], {}).to_json(), encoding="utf-8")
    assert any(name.split("_")[0] in problem for problem in verify(prefix))


def test_swapped_and_stale_files_are_found(prefix: Path, bpe: Tokenizer, sentencepiece: Tokenizer) -> None:
    assert any("another tokenizer" in problem for problem in verify(prefix, sentencepiece))
    manifest = manifest_path(prefix).read_text(encoding="utf-8")
    whole: dict[str, Any] = json.loads(manifest)
    whole["content"]["files"] = {name: whole["content"]["files"][name] for name in (".bin", ".idx")}
    manifest_path(prefix).write_text(Manifest(whole["content"], {}).to_json(), encoding="utf-8")
    assert sum("left over" in problem for problem in verify(prefix)) == 2
    manifest_path(prefix).write_text(manifest, encoding="utf-8")
    shutil.copy(f"{prefix}.switch.bin", f"{prefix}.bin")
    assert verify(prefix, bpe)


def test_inspection_marks_switched_words(prefix: Path, baked: Path, bpe: Tokenizer) -> None:
    lexicon = read_lexicon([baked / "lexicon.tsv"], "en")
    shown = inspect_document(prefix, 0, bpe, lexicon)
    assert shown == "[the→die][bank→银行] [is→ist] here<|endoftext|>"
    assert inspect_document(prefix, 1, bpe, lexicon) == ""
    assert inspect_document(prefix, 4, bpe) == "[the…→die] [the…→die] [the…→die]<|endoftext|>"


def test_inspection_refuses_what_does_not_belong(prefix: Path, bpe: Tokenizer, sentencepiece: Tokenizer) -> None:
    with pytest.raises(DataError, match="no document 5; it has 5"):
        inspect_document(prefix, 5, bpe)
    with pytest.raises(DataError, match="another tokenizer"):
        inspect_document(prefix, 0, sentencepiece)
