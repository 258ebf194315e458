"""Training and validation sets from the blend of the configuration, built by megatron-core's builder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.blended_megatron_dataset_config import (
    convert_split_vector_to_split_matrix,
    parse_and_normalize_split,
)
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split

from megatron_prealign.config.data import BlendEntry, DataConfig
from megatron_prealign.data.compile_lexicon import compile_lexicon
from megatron_prealign.data.dataset import CodeSwitchDataset, no_full_sample
from megatron_prealign.data.manifest import check_manifest, read_manifest
from megatron_prealign.data.online import OnlineCodeSwitchDataset, OnlineDatasetConfig, OnlineSwitch
from megatron_prealign.data.sampler import SampleDataset
from megatron_prealign.data.tokenizer import Tokenizer
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import read_lexicon


def check_blend(entries: Sequence[BlendEntry], tokenizer: Tokenizer) -> list[str]:
    """Return every problem that keeps the entries from being trained on with this tokenizer.

    Reads manifests and hashes .idx files; needs no process group.
    """
    problems = [] if entries else ["data.blend: no dataset given; name at least one baked prefix"]
    for entry in entries:
        if not entry.weight > 0:
            problems.append(f"data.blend: weight {entry.weight} of {entry.prefix} must be above 0")
        problems.extend(_check_entry(entry.prefix, tokenizer))
    return problems


def build_train_dataset(
    data: DataConfig, tokenizer: Tokenizer, *, num_samples: int, seed: int, cache_path: str | Path | None
) -> SampleDataset:
    """Build the weighted blend of the entries' training splits.

    Sample i is a function of (entries, weights, seed, i): asking for more samples keeps the order of the first.
    With a process group every rank must call it; rank 0 builds the index cache, the others then read it.

    Args:
        data: entries, split, sequence length, label mode.
        tokenizer: the tokenizer of the bake.
        num_samples: least number of samples in the set.
        seed: seed of the order.
        cache_path: folder of the index cache on a file system all ranks share; None, or no process group = build
            in memory.

    Raises:
        DataError: if an entry's training split holds no full sample.
    """
    prefixes = [entry.prefix for entry in data.blend]
    problems = [message for prefix in prefixes if (message := _split_problem(prefix, Split.train, data))]
    if problems:
        raise DataError(problems)
    weights = [float(entry.weight) for entry in data.blend] if len(prefixes) > 1 else None
    online = _online_switch(data, tokenizer) if data.codeswitch == "online" else None
    return _build(data, tokenizer, prefixes, weights, Split.train, num_samples, seed, cache_path, online)


def build_valid_datasets(
    data: DataConfig, tokenizer: Tokenizer, *, seed: int, cache_path: str | Path | None
) -> dict[str, SampleDataset]:
    """Build one epoch of the validation split for each language, in the order the blend names them.

    Entries of one language are joined by size. Collective like `build_train_dataset`.

    Raises:
        DataError: naming every language whose validation split holds no full sample.
    """
    prefixes: dict[str, list[str]] = {}
    problems: list[str] = []
    for language in dict.fromkeys(entry.language for entry in data.blend):
        found = {
            entry.prefix: _split_problem(entry.prefix, Split.valid, data)
            for entry in data.blend
            if entry.language == language
        }
        prefixes[language] = [prefix for prefix, problem in found.items() if not problem]
        if not prefixes[language]:
            problems.extend(f"language {language}: {problem}" for problem in found.values())
    if problems:
        raise DataError(problems)
    return {
        language: _build(data, tokenizer, paths, None, Split.valid, None, seed, cache_path)
        for language, paths in prefixes.items()
    }


@dataclass(frozen=True)
class _CoreTokenizer:
    """What megatron-core's datasets ask of a tokenizer; without a pad token nothing is masked as padding."""

    vocab_size: int
    eod: int
    unique_identifiers: dict[str, str]


def _check_entry(prefix: str, tokenizer: Tokenizer) -> list[str]:
    problems = check_manifest(prefix)
    if problems:
        return problems
    content = read_manifest(prefix).content
    if content["vocab_size"] != tokenizer.vocab_size:
        problems.append(
            f"{prefix}: baked with a vocabulary of {content['vocab_size']} tokens, but the tokenizer of this run has "
            f"{tokenizer.vocab_size}; set data.tokenizer_path to the bake's tokenizer or bake again"
        )
    elif content["tokenizer_fingerprint"] != tokenizer.fingerprint:
        problems.append(
            f"{prefix}: baked with another tokenizer (fingerprint {content['tokenizer_fingerprint'][:12]}, this run's "
            f"is {tokenizer.fingerprint[:12]}); set data.tokenizer_path to the bake's tokenizer or bake again"
        )
    return problems


def _split_matrix(data: DataConfig, split: Split) -> list[tuple[float, float] | None]:
    """Return megatron-core's split matrix with all other splits left out, so that only one is built."""
    matrix = convert_split_vector_to_split_matrix(parse_and_normalize_split(data.split))
    return [borders if index == split.value else None for index, borders in enumerate(matrix)]


def _split_problem(prefix: str, split: Split, data: DataConfig) -> str | None:
    """Return the message if the split of a bake can't fill one sample.

    Every rank finds it by itself, before any of them waits for another at a barrier.
    """
    # Held while its lengths are read: megatron-core unmaps the file when the reader goes, views or not.
    dataset = IndexedDataset(prefix)
    share = _split_matrix(data, split)[split.value] or (0.0, 0.0)
    start, stop = (round(border * len(dataset)) for border in share)
    lengths = dataset.sequence_lengths[start:stop]
    if np.sum(lengths, dtype=np.int64) > data.seq_length:
        return None
    return no_full_sample(prefix, split, lengths, data.seq_length)


def _online_switch(data: DataConfig, tokenizer: Tokenizer) -> OnlineSwitch:
    """Read and compile the lexicon of the configuration.

    Raises:
        DataError: if a dictionary can't be read.
    """
    paths = [Path(path) for path in data.codeswitch_lexicon_paths]
    lexicon = read_lexicon(paths, data.codeswitch_language, data.codeswitch_target_language)
    return OnlineSwitch(
        table=compile_lexicon(lexicon, tokenizer),
        fingerprint=lexicon.fingerprint,
        ratios=data.codeswitch_ratios,
        seed=data.codeswitch_seed,
        prefixes=frozenset(entry.prefix for entry in data.blend if entry.language == data.codeswitch_language),
    )


def _build(
    data: DataConfig,
    tokenizer: Tokenizer,
    prefixes: list[str],
    weights: list[float] | None,
    split: Split,
    num_samples: int | None,
    seed: int,
    cache_path: str | Path | None,
    online: OnlineSwitch | None = None,
) -> SampleDataset:
    # megatron-core's blend asks for its rank as soon as it has a cache folder.
    cached = cache_path is not None and torch.distributed.is_initialized()
    eod = -1 if tokenizer.eod_id is None else tokenizer.eod_id
    config = OnlineDatasetConfig(
        online=online,
        random_seed=seed,
        sequence_length=data.seq_length,
        blend=(prefixes, weights),
        split=data.split,
        path_to_cache=str(cache_path) if cached else None,
        tokenizer=_CoreTokenizer(tokenizer.vocab_size, eod, {"fingerprint": tokenizer.fingerprint}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=data.eod_mask_loss,
        create_attention_mask=False,
        label_mode=data.label_mode,
        language_numbers={entry.prefix: data.languages.index(entry.language) for entry in data.blend},
    )
    config.split_matrix = _split_matrix(data, split)
    # A size of 0 for the splits left out satisfies the builder's arithmetic; None means one epoch.
    sizes = [num_samples if index == split.value else (None if weights is None else 0) for index in range(len(Split))]
    kind = CodeSwitchDataset if online is None else OnlineCodeSwitchDataset
    datasets = BlendedMegatronDatasetBuilder(kind, sizes, lambda: True, config).build()
    return cast(SampleDataset, datasets[split.value])
