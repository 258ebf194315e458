"""Whatever is damaged in a tokenizer or a dataset: it is refused or found by name; never a traceback."""

import io
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_prealign.dataset.manifest import DATA_SUFFIXES
from megatron_prealign.errors import DataError
from megatron_prealign.text.tokenizer import load_tokenizer
from tests.dataset.baked import bake_switched
from tools import inspect_dataset, verify_dataset

EDITS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4)
fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def damaged(data: bytes, edits: list[tuple[int, int]], cut: int) -> bytes:
    """Return data with some bytes changed, and every third time cut off."""
    changed = bytearray(data)
    for position, value in edits:
        changed[position % len(changed)] = value
    return bytes(changed[: cut % len(changed)] if cut % 3 == 0 else changed)


def run(tool: Callable[[list[str]], int], *arguments: str) -> int:
    """Run a tool without showing what it says."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return tool([*arguments])


@fuzz
@given(edits=EDITS, cut=st.integers(0, 1 << 20), kind=st.sampled_from(["json", "model"]))
def test_damaged_tokenizers(
    tmp_path: Path, bpe_folder: Path, sentencepiece_path: Path, edits: list[tuple[int, int]], cut: int, kind: str
) -> None:
    source = bpe_folder / "tokenizer.json" if kind == "json" else sentencepiece_path
    path = tmp_path / f"tokenizer.{kind}"
    path.write_bytes(damaged(source.read_bytes(), edits, cut))
    try:
        tokenizer = load_tokenizer(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert tokenizer.vocab_size > 0


@pytest.fixture
def dataset(tmp_path: Path, bpe_folder: Path) -> Path:
    """A small bake with switches; the path without `.bin`."""
    return bake_switched(tmp_path / "whole", bpe_folder, ["the bank is here", "", "of the bank"] * 3)


@fuzz
@given(edits=EDITS, cut=st.integers(0, 1 << 20), suffix=st.sampled_from([*DATA_SUFFIXES, ".json"]))
def test_damaged_datasets(dataset: Path, bpe_folder: Path, edits: list[tuple[int, int]], cut: int, suffix: str) -> None:
    prefix = dataset.with_name("damaged")
    for name in (*DATA_SUFFIXES, ".json"):
        shutil.copy(f"{dataset}{name}", f"{prefix}{name}")
    content = Path(f"{prefix}{suffix}").read_bytes()
    changed = damaged(content, edits, cut)
    Path(f"{prefix}{suffix}").write_bytes(changed)
    found = run(verify_dataset.main, str(prefix), "--tokenizer-model", str(bpe_folder))
    # Provenance is not hashed: other damage to the manifest may pass.
    assert found == 0 if changed == content else found in (0, 1) if suffix == ".json" else found == 1
    lexicon = ("--lexicon", f"{dataset.parent}/lexicon.tsv")
    tokenizer = ("--tokenizer-model", str(bpe_folder))
    for options in ((), ("--labels",)):
        assert run(inspect_dataset.main, str(prefix), *tokenizer, *lexicon, "--random", "3", *options) in (0, 2)
