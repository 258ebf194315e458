"""Blends of baked datasets: weights, languages, refusals, and building them on several ranks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_prealign.config import ParallelConfig
from megatron_prealign.config.data import BlendEntry, DataConfig, ValidEntry
from megatron_prealign.dataset.blend import build_train_dataset, build_valid_datasets
from megatron_prealign.dataset.index_cache import IndexCache
from megatron_prealign.dataset.mix import check_blend, read_datasets
from megatron_prealign.errors import DataError, PrealignError
from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform
from megatron_prealign.testing import run_distributed
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.training.objectives.sequences import build_together
from tests.dataset.baked import random_documents, write_baked

LENGTH = 16


def bake(folder: Path, name: str, bpe: Tokenizer, low: int, num_documents: int = 80) -> str:
    """Write documents whose tokens lie in [low, low + 300)."""
    documents = random_documents(np.random.default_rng(low), num_documents, 300, longest=50, switch_ratio=0.05)
    for tokens, records in documents:
        tokens += low
        records[:, 2] += low
    return write_baked(folder / name, documents, bpe.vocab_size, bpe.fingerprint)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, bpe: Tokenizer) -> DataConfig:
    folder = tmp_path_factory.mktemp("blend")
    return DataConfig(
        blend=(
            BlendEntry(prefix=bake(folder, "en", bpe, 0), weight=3.0, language="en"),
            BlendEntry(prefix=bake(folder, "de", bpe, 500), weight=1.0, language="de"),
            BlendEntry(prefix=bake(folder, "de2", bpe, 1000, num_documents=40), weight=0.5, language="de"),
        ),
        split="80,20,0",
        seq_length=LENGTH,
    )


def test_train_follows_the_weights(data: DataConfig, bpe: Tokenizer) -> None:
    train = build_train_dataset(data, bpe, num_samples=450, seed=1)
    assert len(train) >= 450
    origins = np.array([int(train[index]["tokens"].max()) // 500 for index in range(450)])
    assert np.bincount(origins).tolist() == [300, 100, 50]


def test_longer_training_keeps_the_order(data: DataConfig, bpe: Tokenizer) -> None:
    short, long = (build_train_dataset(data, bpe, num_samples=num, seed=1) for num in (100, 900))
    assert all(torch.equal(short[index]["tokens"], long[index]["tokens"]) for index in range(100))
    other = build_train_dataset(data, bpe, num_samples=100, seed=2)
    assert any(not torch.equal(short[index]["tokens"], other[index]["tokens"]) for index in range(100))


def test_valid_is_one_epoch_of_each_language(data: DataConfig, bpe: Tokenizer) -> None:
    valid = build_valid_datasets(data, bpe, seed=1)
    assert list(valid) == ["en", "de"]
    origins = {
        language: {int(dataset[index]["tokens"].max()) // 500 for index in range(len(dataset))}
        for language, dataset in valid.items()
    }
    assert origins == {"en": {0}, "de": {1, 2}}
    assert len(valid["en"]) < 80 * 25 * 0.3 / LENGTH


def test_train_and_valid_share_no_sample(data: DataConfig, bpe: Tokenizer) -> None:
    train = build_train_dataset(data, bpe, num_samples=2000, seed=1)
    valid = build_valid_datasets(data, bpe, seed=1)["en"]
    # Five random tokens of 300 identify a place in the corpus.
    seen = {tuple(w) for index in range(2000) for w in train[index]["tokens"].unfold(0, 5, 1).tolist()}
    fresh = {tuple(w) for index in range(len(valid)) for w in valid[index]["tokens"].unfold(0, 5, 1).tolist()}
    crossing = len(fresh & seen)
    assert fresh
    assert crossing == 0


def test_empty_split_is_refused_with_the_fix(tmp_path: Path, bpe: Tokenizer) -> None:
    prefix = bake(tmp_path, "small", bpe, 0, num_documents=3)
    data = DataConfig(blend=(BlendEntry(prefix=prefix, language="sw"),), split="90,10,0", seq_length=LENGTH)
    with pytest.raises(
        DataError, match=r"language sw: .*small: the valid split has no full sample: 0 documents.*data.split"
    ):
        build_valid_datasets(data, bpe, seed=1)
    whole = DataConfig(blend=data.blend, split="0,1,0", seq_length=LENGTH)
    with pytest.raises(DataError, match="the train split has no full sample"):
        build_train_dataset(whole, bpe, num_samples=5, seed=1)


def test_language_with_one_usable_entry_is_enough(data: DataConfig, tmp_path: Path, bpe: Tokenizer) -> None:
    small = BlendEntry(prefix=bake(tmp_path, "small", bpe, 0, num_documents=3), language="de")
    mixed = DataConfig(blend=(*data.blend, small), split=data.split, seq_length=LENGTH)
    assert len(build_valid_datasets(mixed, bpe, seed=1)["de"]) > 0


class TestCheckBlend:
    """Every reason to refuse, before any process group exists."""

    def test_good_blend(self, data: DataConfig, bpe: Tokenizer) -> None:
        assert check_blend(data, bpe) == []

    def test_other_tokenizer(self, data: DataConfig, bpe: Tokenizer, sentencepiece: Tokenizer, tmp_path: Path) -> None:
        problems = check_blend(data, sentencepiece)
        assert len(problems) == 3
        assert f"vocabulary of {bpe.vocab_size} tokens" in problems[0]
        assert str(sentencepiece.vocab_size) in problems[0]
        twin = write_baked(tmp_path / "twin", random_documents(np.random.default_rng(0), 5, 300, 50), bpe.vocab_size)
        (problem,) = check_blend(DataConfig(blend=(BlendEntry(prefix=twin),)), bpe)
        assert "baked with another tokenizer" in problem

    def test_missing_manifest_and_damage_are_all_listed(self, bpe: Tokenizer, tmp_path: Path) -> None:
        cut = bake(tmp_path, "cut", bpe, 0)
        with open(f"{cut}.bin", "r+b") as stream:
            stream.truncate(100)
        plain = bake(tmp_path, "plain", bpe, 0)
        Path(f"{plain}.json").unlink()
        entries = (BlendEntry(prefix=cut), BlendEntry(prefix=plain))
        problems = check_blend(DataConfig(blend=entries), bpe)
        assert len(problems) == 2
        assert "cut.bin: 100 bytes" in problems[0]
        assert "plain.json" in problems[1]
        assert "preprocess_codeswitch" in problems[1]

    def test_no_data_is_read_under_two_names(self, data: DataConfig, bpe: Tokenizer, tmp_path: Path) -> None:
        twin = bake(tmp_path, "twin", bpe, 500)
        (problem,) = check_blend(replace(data, blend=(*data.blend, BlendEntry(prefix=twin))), bpe)
        assert problem.startswith(f"data.blend: {twin} is named twice, or has the same content as ")
        (problem,) = check_blend(replace(data, valid_blend=(ValidEntry(prefix=twin),)), bpe)
        assert problem.startswith(f"data.valid_blend: {twin} is named twice")

    def test_no_dataset(self, bpe: Tokenizer) -> None:
        assert "data.blend" in check_blend(DataConfig(), bpe)[0]


def test_an_entry_of_several_datasets_is_split_by_size(data: DataConfig, bpe: Tokenizer, tmp_path: Path) -> None:
    for name, low, count in (("part_1_de", 500, 90), ("part_2_de", 1000, 30)):
        bake(tmp_path, name, bpe, low, count)
    entries = (data.blend[0], BlendEntry(prefix=f"{tmp_path}/part_*_de", language="de"))
    listed = (data.blend[0], BlendEntry(prefix=(f"{tmp_path}/part_1_de", f"{tmp_path}/part_2_de"), language="de"))
    matched, named = (
        build_train_dataset(replace(data, blend=blend), bpe, num_samples=400, seed=1) for blend in (entries, listed)
    )
    origins = np.array([int(matched[index]["tokens"].max()) // 500 for index in range(400)])
    sizes = [dataset.num_tokens for dataset in read_datasets(replace(data, blend=entries))[1]]
    expected = [300, 100 * sizes[0] / sum(sizes), 100 * sizes[1] / sum(sizes)]
    assert np.bincount(origins) == pytest.approx(expected, abs=1)
    assert all(torch.equal(matched[index]["tokens"], named[index]["tokens"]) for index in range(400))


def test_validation_sets_of_their_own_are_read_whole(data: DataConfig, bpe: Tokenizer, tmp_path: Path) -> None:
    own = bake(tmp_path, "own", bpe, 1500)
    valid_blend = (ValidEntry(prefix=own, language="sw"), ValidEntry(prefix=bake(tmp_path, "de", bpe, 500, 20)))
    valid = build_valid_datasets(replace(data, split="1,0,0", valid_blend=valid_blend), bpe, seed=1)
    assert list(valid) == ["sw", "en"]
    dataset = IndexedDataset(own)  # kept: its arrays are views of a file that it closes
    num_tokens = int(dataset.sequence_lengths.sum())
    assert len(valid["sw"]) == (num_tokens - 1) // LENGTH
    assert {int(valid["sw"][index]["loss_group"][0]) // 2 for index in range(5)} == {2}


def build_on_rank(data: DataConfig, tokenizer_path: str, cache_path: str) -> tuple[list[list[int]], str]:
    """Return the tokens of all sets of this rank, and the message of a refusal that must not hang."""
    tokenizer = load_tokenizer(tokenizer_path)
    initialize_distributed(select_platform("cpu"))
    mesh = initialize_model_parallel(ParallelConfig(), seed=1)
    alone = replace(data, blend=data.blend[:1])

    def build(make: Callable[[IndexCache], Any]) -> Any:
        return build_together("training", make, Path(cache_path), mesh)

    sets = [
        build(lambda cache: build_train_dataset(data, tokenizer, num_samples=200, seed=1, cache=cache)),
        build(lambda cache: build_train_dataset(alone, tokenizer, num_samples=50, seed=1, cache=cache)),
        *build(lambda cache: build_valid_datasets(data, tokenizer, seed=1, cache=cache)).values(),
    ]
    tokens = [dataset[index]["tokens"].tolist() for dataset in sets for index in range(len(dataset))]
    try:
        build(lambda cache: build_valid_datasets(replace(data, split="1,0,0"), tokenizer, seed=1, cache=cache))
    except PrealignError as error:
        return tokens, str(error)
    return tokens, ""


def test_ranks_build_the_same_sets_from_one_cache(data: DataConfig, tmp_path: Path, bpe: Tokenizer) -> None:
    cache_path = str(tmp_path / "cache")
    (tokens, problem), other = run_distributed(build_on_rank, 2, data, str(bpe.path), cache_path)
    assert other == (tokens, problem)
    assert "language de" in problem
    assert "the valid split has no full sample" in problem
    in_memory = build_train_dataset(data, bpe, num_samples=200, seed=1)
    assert tokens[: len(in_memory)] == [in_memory[index]["tokens"].tolist() for index in range(len(in_memory))]
    names = [path.name for path in (tmp_path / "cache").iterdir()]
    # Two mixes of one, three and one dataset, then three validation splits: no index is built twice.
    assert sum("CodeSwitchDataset-train-shuffle" in name for name in names) == 4
    assert sum("CodeSwitchDataset-valid-shuffle" in name for name in names) == 3
    assert sum("mix-which" in name for name in names) == 2
    assert not any(name.endswith(".tmp") for name in names)
