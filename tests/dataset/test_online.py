"""Online code-switching equals the bake, epoch by epoch, and packs each epoch by its own lengths."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_prealign.bake.bake import bake
from megatron_prealign.bake.options import BakeOptions
from megatron_prealign.codeswitch.codeswitch import codeswitch
from megatron_prealign.codeswitch.compile_lexicon import compile_lexicon
from megatron_prealign.codeswitch.labels import IGNORE, apply_switch_records
from megatron_prealign.config.data import BlendEntry, DataConfig
from megatron_prealign.dataset import online as online_module
from megatron_prealign.dataset.blend import build_train_dataset
from megatron_prealign.dataset.indexed import IndexedReader
from megatron_prealign.errors import DataError, TrainingError
from megatron_prealign.lexicon import read_lexicon
from megatron_prealign.text.tokenizer import Tokenizer

RATIOS = (0.4, 0.1, 0.9)


@pytest.fixture
def data(tmp_path: Path, documents: list[str], bpe_folder: Path) -> DataConfig:
    """A plain bake, one with switches beside it, and the configuration that makes them online."""
    texts = [paragraph for text in documents[:8] for paragraph in text.split("\n\n")]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "lexicon.tsv").write_text("the\tdie Frau\tde\nof\tvon\tde\nis\tist\tde\n", encoding="utf-8")
    common: dict[str, Any] = {"input_paths": (tmp_path / "a.jsonl",), "tokenizer_path": bpe_folder, "append_eod": True}
    lexicon = {"lexicon_paths": (tmp_path / "lexicon.tsv",), "codeswitch_ratio": RATIOS[0], "seed": 7}
    bake(BakeOptions(**common, output_prefix=tmp_path / "plain"), show_progress=False)
    bake(BakeOptions(**common, **lexicon, output_prefix=tmp_path / "baked"), show_progress=False)
    return DataConfig(
        tokenizer_path=str(bpe_folder),
        blend=(BlendEntry(prefix=f"{tmp_path}/plain_text_document"),),
        split="1,0,0",
        seq_length=64,
        codeswitch="online",
        codeswitch_lexicon_paths=(str(tmp_path / "lexicon.tsv"),),
        codeswitch_ratios=RATIOS,
        codeswitch_seed=7,
    )


def samples_of(data: DataConfig, bpe: Tokenizer, num_samples: int) -> list[tuple[list[int], list[int]]]:
    """Return tokens and labels of samples."""
    dataset = build_train_dataset(data, bpe, num_samples=num_samples, seed=3)
    return [(dataset[i]["tokens"].tolist(), dataset[i]["labels"].tolist()) for i in range(num_samples)]


def test_the_first_epoch_is_the_bake(tmp_path: Path, data: DataConfig, bpe: Tokenizer) -> None:
    baked = replace(data, codeswitch="baked", blend=(BlendEntry(prefix=f"{tmp_path}/baked_text_document"),))
    num_samples = (len(IndexedReader(f"{tmp_path}/baked_text_document").tokens) - 1) // 64
    assert samples_of(data, bpe, num_samples) == samples_of(baked, bpe, num_samples)


def test_every_epoch_is_packed_by_its_own_lengths(
    tmp_path: Path, data: DataConfig, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online_module, "_TOKENS_AT_ONCE", 500)
    plain = IndexedReader(f"{tmp_path}/plain_text_document")
    table = compile_lexicon(read_lexicon([tmp_path / "lexicon.tsv"], "en"), bpe)
    tokens: list[int] = []
    labels: list[int] = []
    borders = []
    for epoch in range(4):
        order = np.random.RandomState(3 if epoch == 0 else [3, epoch]).permutation(
            np.arange(len(plain), dtype=np.int32)
        )
        for i in order:
            offsets = np.array([0, len(plain[i])])
            switched = codeswitch(plain[i].astype(np.int32), offsets, table, RATIOS[min(epoch, 2)], 7, epoch)
            tokens += switched.tokens.tolist()
            labels += apply_switch_records(switched.tokens, switched.records, "input-only").tolist()
        borders.append((len(tokens) - 1) // 64)
    expected = sorted(
        (tokens[64 * i : 64 * i + 64], [0 if x == IGNORE else x for x in labels[64 * i + 1 : 64 * i + 65]])
        for i in range(borders[-1])
    )
    found = samples_of(data, bpe, borders[3])
    assert len({border - before for before, border in zip([0, *borders], borders, strict=False)}) > 2
    assert sorted(found) == expected
    # Samples stay within their epoch.
    first = sorted(expected_sample for expected_sample in found[: borders[0]])
    assert first == sorted(
        (tokens[64 * i : 64 * i + 64], [0 if x == IGNORE else x for x in labels[64 * i + 1 : 64 * i + 65]])
        for i in range(borders[0])
    )


def test_a_bake_with_switches_is_refused(tmp_path: Path, data: DataConfig, bpe: Tokenizer) -> None:
    baked = replace(data, blend=(BlendEntry(prefix=f"{tmp_path}/baked_text_document"),))
    with pytest.raises(DataError, match="needs a bake without"):
        build_train_dataset(baked, bpe, num_samples=5, seed=3)


def test_ids_that_the_tokenizer_does_not_have_are_refused(data: DataConfig, bpe: Tokenizer) -> None:
    """A file that was damaged after the bake."""
    path = Path(f"{data.blend[0].prefix}.bin")
    tokens = np.fromfile(path, dtype=np.uint16)
    tokens[3] = 60_000
    tokens.tofile(path)
    with pytest.raises(
        TrainingError, match=f"{data.blend[0].prefix}: contains the token id 60000, the tokenizer has 0 to"
    ):
        samples_of(data, bpe, 5)
