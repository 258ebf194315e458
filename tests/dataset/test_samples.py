"""Samples against the whole packed stream, the index cache, and the order of samples."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split

from megatron_prealign.dataset.index_cache import IndexCache
from megatron_prealign.dataset.samples import CodeSwitchDataset, CodeSwitchDatasetConfig
from megatron_prealign.errors import DataError, TrainingError
from tests.dataset.baked import random_documents, write_baked

VOCAB_SIZE = 500
EOD = 3
LENGTH = 16


def make_config(cache_path: Path | None = None, **changes: object) -> CodeSwitchDatasetConfig:
    tokenizer = SimpleNamespace(vocab_size=VOCAB_SIZE, eod=EOD, unique_identifiers={"fingerprint": "f"})
    options: dict = {
        "random_seed": 7,
        "sequence_length": LENGTH,
        "blend": (["unused"], None),
        "split": "1,0,0",
        "cache": IndexCache(cache_path),
        "tokenizer": tokenizer,
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "create_attention_mask": False,
    }
    return CodeSwitchDatasetConfig(**{**options, **changes})


def open_dataset(
    prefix: str, num_samples: int | None = None, kind: type = CodeSwitchDataset, **options: object
) -> CodeSwitchDataset:
    low_level = IndexedDataset(prefix)
    indices = np.arange(len(low_level), dtype=np.int32)
    return kind(low_level, prefix, indices, num_samples, Split.train, make_config(**options))


def reference_labels(tokens: np.ndarray, records: np.ndarray, mode: str) -> list[int]:
    """The label rule of design.md, one token at a time; -100 = ignored."""
    labels = tokens.tolist()
    for start, length, label, _ in records.tolist():
        if mode != "vanilla":
            labels[start : start + length] = [label if mode == "input-only" else -100] + [-100] * (length - 1)
    return labels


def reference_originals(tokens: np.ndarray, records: np.ndarray, mode: str) -> np.ndarray:
    """Where the label is a switch's original word."""
    return np.isin(np.arange(len(tokens)), records[:, 0]) & (mode == "input-only")


@pytest.fixture(scope="module")
def documents() -> list[tuple[np.ndarray, np.ndarray]]:
    documents = random_documents(np.random.default_rng(0), 60, VOCAB_SIZE, longest=50)
    documents[5] = (np.empty(0, dtype=np.int64), np.empty((0, 4), dtype=np.int32))
    return documents


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory, documents: list[tuple[np.ndarray, np.ndarray]]) -> str:
    return write_baked(tmp_path_factory.mktemp("baked") / "en_text_document", documents, VOCAB_SIZE)


@pytest.mark.parametrize("mode", ["input-only", "vanilla", "no-predict"])
@pytest.mark.parametrize("eod_mask_loss", [False, True])
def test_samples_equal_slices_of_the_packed_stream(
    prefix: str, documents: list[tuple[np.ndarray, np.ndarray]], mode: str, eod_mask_loss: bool
) -> None:
    num_tokens = sum(len(tokens) for tokens, _ in documents)
    options = {"label_mode": mode, "eod_mask_loss": eod_mask_loss, "language_numbers": {"other": 1, prefix: 2}}
    dataset = open_dataset(prefix, 2 * num_tokens // LENGTH + 1, **options)
    order = dataset.document_index.tolist()
    stream = np.concatenate([documents[index][0] for index in order])
    labels = np.concatenate([reference_labels(*documents[index], mode) for index in order]).astype(int)
    originals = np.concatenate([reference_originals(*documents[index], mode) for index in order])
    assert len(dataset) == (len(stream) - 1) // LENGTH
    assert len(order) == 3 * len(documents), "two epochs hold one sample less"
    num_ignored = 0
    for position in range(len(dataset)):
        sample = dataset[position]
        begin = int(dataset.shuffle_index[position]) * LENGTH
        inputs, targets = stream[begin : begin + LENGTH], labels[begin + 1 : begin + 1 + LENGTH]
        counted = (targets != -100) & ~(eod_mask_loss & (inputs == EOD))
        assert sample["tokens"].tolist() == inputs.tolist()
        assert sample["labels"].tolist() == np.where(targets == -100, 0, targets).tolist()
        assert sample["loss_mask"].tolist() == counted.tolist()
        assert sample["loss_group"].tolist() == (2 * 2 + originals[begin + 1 : begin + 1 + LENGTH]).tolist()
        num_ignored += int((targets == -100).sum())
    assert (num_ignored > 0) == (mode != "vanilla")
    assert {key: value.dtype for key, value in sample.items()} == {
        "tokens": torch.int64,
        "labels": torch.int64,
        "loss_mask": torch.float32,
        "position_ids": torch.int64,
        "loss_group": torch.int16,
    }
    assert sample["position_ids"].tolist() == list(range(LENGTH))


def test_long_document_cut_inside_switches(tmp_path: Path) -> None:
    tokens = np.arange(10 * LENGTH + 1)
    records = np.array([(start, 5, 400, 0) for start in range(2, 150, 7)], dtype=np.int32)
    prefix = write_baked(tmp_path / "long", [(tokens, records)], VOCAB_SIZE)
    dataset = open_dataset(prefix)
    labels = np.array(reference_labels(tokens, records, "input-only"))
    for position in range(10):
        begin = int(dataset.shuffle_index[position]) * LENGTH
        expected = labels[begin + 1 : begin + 1 + LENGTH]
        sample = dataset[position]
        assert sample["labels"].tolist() == np.where(expected == -100, 0, expected).tolist()
        assert sample["loss_mask"].tolist() == (expected != -100).tolist()


def test_one_epoch_is_megatron_cores_own_order(prefix: str) -> None:
    ours = open_dataset(prefix, label_mode="vanilla")
    theirs = open_dataset(prefix, kind=GPTDataset)
    assert len(ours) == len(theirs)
    for position in range(len(ours)):
        for key in ("tokens", "labels", "loss_mask", "position_ids"):
            assert torch.equal(ours[position][key], theirs[position][key]), key


def test_more_samples_keep_the_order_of_the_first(prefix: str) -> None:
    short, long = open_dataset(prefix), open_dataset(prefix, 1000)
    assert len(long) >= 1000 > 2 * len(short)
    for position in range(len(short)):
        assert torch.equal(short[position]["tokens"], long[position]["tokens"])
    assert np.array_equal(long.document_index[: len(short.document_index)], short.document_index)
    epochs = long.document_index.reshape(-1, len(short.document_index))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == len(epochs), "each epoch has an order of its own"
    assert all(sorted(epoch) == sorted(epochs[0].tolist()) for epoch in epochs.tolist())


def test_loss_mask_is_not_shared_between_samples(prefix: str) -> None:
    dataset = open_dataset(prefix)
    before = copy.deepcopy(dataset[1])
    sample = dataset[0]
    for tensor in sample.values():
        tensor.zero_()
    assert all(torch.equal(before[key], dataset[1][key]) for key in before)
    assert dataset[0]["loss_mask"].sum() > 0


def test_padding_sample_counts_nothing(prefix: str) -> None:
    assert open_dataset(prefix)[None]["loss_mask"].sum() == 0


@pytest.mark.parametrize("wrong", [VOCAB_SIZE, 2**16 - 1])
def test_ids_that_the_tokenizer_does_not_have_are_refused(
    tmp_path: Path, documents: list[tuple[np.ndarray, np.ndarray]], wrong: int
) -> None:
    """A damaged file of the right size."""
    prefix = write_baked(tmp_path / "damaged", documents, VOCAB_SIZE)
    tokens = np.fromfile(f"{prefix}.bin", dtype=np.uint16)
    tokens[40] = wrong
    tokens.tofile(f"{prefix}.bin")
    dataset = open_dataset(prefix)
    refused = 0
    for index in range(len(dataset)):
        try:
            dataset[index]
        except TrainingError as error:
            assert f"{prefix}: contains the token id {wrong}, the tokenizer has 0 to {VOCAB_SIZE - 1}: " in str(error)
            refused += 1
    assert 1 <= refused <= 2


@pytest.mark.parametrize("wrong", [VOCAB_SIZE, -7])
def test_labels_that_the_tokenizer_does_not_have_are_refused(
    tmp_path: Path, documents: list[tuple[np.ndarray, np.ndarray]], wrong: int
) -> None:
    prefix = write_baked(tmp_path / "damaged", documents, VOCAB_SIZE)
    records = np.fromfile(f"{prefix}.switch.bin", dtype=np.int32).reshape(-1, 4)
    records[:, 2] = wrong
    records.tofile(f"{prefix}.switch.bin")
    with pytest.raises(TrainingError, match=f"contains the token id {wrong}, "):
        [*open_dataset(prefix)]


def test_ratio_zero_has_no_switch_files(tmp_path: Path) -> None:
    documents = random_documents(np.random.default_rng(1), 20, VOCAB_SIZE, longest=50, switch_ratio=0.0)
    prefix = write_baked(tmp_path / "plain", documents, VOCAB_SIZE)
    assert not Path(f"{prefix}.switch.bin").exists()
    dataset = open_dataset(prefix)
    assert all(dataset[position]["loss_mask"].all() for position in range(len(dataset)))


class TestCache:
    """The index cache on disk."""

    def test_rebake_at_the_same_prefix_is_seen(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(2)
        small, large = (random_documents(rng, count, VOCAB_SIZE, longest=50) for count in (20, 80))
        cache_path = tmp_path / "cache"
        first = open_dataset(write_baked(tmp_path / "en", small, VOCAB_SIZE), cache_path=cache_path)
        again = open_dataset(write_baked(tmp_path / "en", large, VOCAB_SIZE), cache_path=cache_path)
        num_tokens = sum(len(tokens) for tokens, _ in large)
        assert len(again) == (num_tokens - 1) // LENGTH > len(first)
        assert sorted(again.document_index.tolist()) == list(range(80))

    def test_same_tokens_other_switches_is_another_key(self, tmp_path: Path) -> None:
        documents = random_documents(np.random.default_rng(3), 20, VOCAB_SIZE, longest=50)
        cleared = [(tokens, records[:1]) for tokens, records in documents]
        for baked in (documents, cleared):
            open_dataset(write_baked(tmp_path / "en", baked, VOCAB_SIZE), cache_path=tmp_path / "cache")
        assert len(list((tmp_path / "cache").iterdir())) == 2 * 3

    def test_a_moved_dataset_finds_its_index(self, tmp_path: Path) -> None:
        documents = random_documents(np.random.default_rng(3), 20, VOCAB_SIZE, longest=50)
        for name in ("here", "there"):
            open_dataset(write_baked(tmp_path / name, documents, VOCAB_SIZE), cache_path=tmp_path / "cache")
        assert len(list((tmp_path / "cache").iterdir())) == 3

    @pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00v\x00{'descr'"])
    def test_a_damaged_file_is_named(self, prefix: str, tmp_path: Path, content: bytes) -> None:
        open_dataset(prefix, cache_path=tmp_path)
        damaged = next(tmp_path.glob("*shuffle_index.npy"))
        damaged.write_bytes(content)
        with pytest.raises(DataError, match=f"{damaged}: damaged .*; delete it, and the next start rebuilds it"):
            open_dataset(prefix, cache_path=tmp_path)

    def test_cached_index_is_read_back(self, prefix: str, tmp_path: Path) -> None:
        built = open_dataset(prefix, 500)
        written = open_dataset(prefix, 500, cache_path=tmp_path)
        names = sorted(path.name for path in tmp_path.iterdir())
        stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]
        assert len(names) == 3
        read = open_dataset(prefix, 499, cache_path=tmp_path)
        assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == stamps
        assert len(open_dataset(prefix, 1000, cache_path=tmp_path)) >= 1000, "more epochs are another index"
        for name in ("document_index", "sample_index", "shuffle_index"):
            for other in (written, read):
                assert np.array_equal(getattr(built, name), getattr(other, name))


def test_too_few_tokens_for_one_sample(tmp_path: Path) -> None:
    documents = [(np.arange(LENGTH), np.empty((0, 4), dtype=np.int32))]
    prefix = write_baked(tmp_path / "tiny", documents, VOCAB_SIZE)
    with pytest.raises(DataError, match="train split has no full sample: 1 documents with 16 tokens"):
        open_dataset(prefix)
