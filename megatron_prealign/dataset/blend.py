"""Training and validation sets from the blend of the configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from megatron.core.datasets import helpers
from megatron.core.datasets.utils import Split
from numpy.typing import NDArray

from megatron_prealign.codeswitch.compile_lexicon import compile_lexicon
from megatron_prealign.config.data import DataConfig, ValidEntry, find_prefixes
from megatron_prealign.dataset.index_cache import IndexCache
from megatron_prealign.dataset.mix import MixRequest, MixSegment, deal_out, read_datasets
from megatron_prealign.dataset.online import OnlineCodeSwitchDataset, OnlineDatasetConfig, OnlineSwitch, baked_switches
from megatron_prealign.dataset.sampler import SampleDataset
from megatron_prealign.dataset.samples import CodeSwitchDataset, open_indexed, split_problem, split_range
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.text.tokenizer import Tokenizer

_AT_ONCE = 1 << 24
_WHOLE = "0,1,0"


class MixedDataset:
    """The samples of a run from the start of its last mix, by position in the order of the whole run."""

    def __init__(
        self,
        mix: MixSegment,
        datasets: Sequence[SampleDataset | None],
        which: NDArray[np.int16],
        number: NDArray[np.int64],
    ) -> None:
        """Take one dataset for each share of the mix, and the dealt order of `deal_out`."""
        self.mix = mix
        self._datasets = datasets
        self._which, self._number = which, number
        self._keys = list(mix.shares)
        self._positions = [mix.positions.get(key, 0) for key in self._keys]

    def __len__(self) -> int:
        """Return the number of samples of the run, including those before this mix."""
        return self.mix.start + len(self._which)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        if not self.mix.start <= idx < len(self):
            raise IndexError(f"sample {idx} is not in the mix of samples {self.mix.start} to {len(self) - 1}")
        index = int(self._which[idx - self.mix.start])
        dataset = self._datasets[index]
        assert dataset is not None
        return dataset[self._positions[index] + int(self._number[idx - self.mix.start])]

    def key_of(self, idx: int) -> str:
        """Return the key of the dataset of a sample."""
        return self._keys[int(self._which[idx - self.mix.start])]

    def count_draws(self, first: int, num_samples: int) -> dict[str, int]:
        """Return how many of some samples each dataset gives, by key."""
        start = first - self.mix.start
        counts = np.bincount(self._which[start : start + num_samples], minlength=len(self._keys))
        return {key: count for key, count in zip(self._keys, counts.tolist(), strict=True) if count}


def build_train_dataset(
    data: DataConfig,
    tokenizer: Tokenizer,
    *,
    num_samples: int,
    seed: int,
    cache: IndexCache | None = None,
    mix: MixSegment | None = None,
) -> MixedDataset:
    """Build the order of the training splits' samples; more samples keep the order of the first.

    Args:
        data: entries, split, sequence length, label mode.
        tokenizer: the tokenizer of the bake.
        num_samples: samples of the run.
        seed: seed of the order.
        cache: where the indices are kept.
        mix: what to draw, and from which sample; none = the mix of the configuration from the first sample.

    Raises:
        DataError: if a training split has no full sample, or the mix can't be drawn.
    """
    problems = train_problems(data)
    if problems:
        raise DataError(problems)
    cache = cache or IndexCache()
    datasets = read_datasets(data)
    if mix is None:
        (mix,), problems = MixRequest(data, datasets, num_samples, last_step=1).continue_from([], 0, {})
        if problems:
            raise DataError(problems)
    shares, count = list(mix.shares.values()), num_samples - mix.start
    which, number, drawn = _deal(shares, count, cache)
    online = _online_switch(data, tokenizer) if data.codeswitch == "online" else None
    build = _Builder(data, tokenizer, seed, cache, online)
    prefixes = {dataset.key: dataset.prefix for entry in datasets for dataset in entry}
    samples = [
        build(prefixes[key], Split.train, data.split, mix.positions.get(key, 0) + more) if more else None
        for key, more in zip(mix.shares, drawn.tolist(), strict=True)
    ]
    return MixedDataset(mix, samples, which, number)


def train_problems(data: DataConfig) -> list[str]:
    """Return a message for each dataset of the blend whose training split can't fill one sample."""
    prefixes = [prefix for entry in data.blend for prefix in find_prefixes(entry.prefix)]
    found = (split_problem(prefix, data.split, Split.train, data.seq_length) for prefix in prefixes)
    return [problem for problem in found if problem]


def valid_problems(data: DataConfig) -> list[str]:
    """Return a message for each dataset of a language without a sample to validate on."""
    return _valid_prefixes(data)[1]


def online_problems(data: DataConfig) -> list[str]:
    """Return why the blend can't be switched online: a bad lexicon, or datasets that have switches."""
    try:
        _online_lexicon(data)
        problems: list[str] = []
    except DataError as error:
        problems = error.problems
    return [*problems, *(problem for prefix in _online_prefixes(data) for problem in baked_switches(prefix))]


def build_valid_datasets(
    data: DataConfig, tokenizer: Tokenizer, *, seed: int, cache: IndexCache | None = None
) -> dict[str, SampleDataset]:
    """Build one epoch of the validation samples of each language, in the order of the configuration.

    They are from data.valid_blend, or else the validation split of the blend; datasets of one language are mixed by
    size.

    Raises:
        DataError: naming every language without a sample.
    """
    chosen, problems = _valid_prefixes(data)
    if problems:
        raise DataError(problems)
    build = _Builder(data, tokenizer, seed, cache or IndexCache())
    return {
        language: _join([build(prefix, Split.valid, _valid_split(data), None) for prefix in prefixes])
        for language, prefixes in chosen.items()
    }


def _valid_split(data: DataConfig) -> str:
    return _WHOLE if data.valid_blend else data.split


def _valid_prefixes(data: DataConfig) -> tuple[dict[str, list[str]], list[str]]:
    """Return the datasets with a validation sample by language, and the problems of languages without any."""
    entries: Sequence[ValidEntry] = data.valid_blend or data.blend
    chosen: dict[str, list[str]] = {}
    problems: list[str] = []
    for language in dict.fromkeys(entry.language for entry in entries):
        named = [prefix for entry in entries if entry.language == language for prefix in find_prefixes(entry.prefix)]
        found = {prefix: split_problem(prefix, _valid_split(data), Split.valid, data.seq_length) for prefix in named}
        chosen[language] = [prefix for prefix, problem in found.items() if not problem]
        if not chosen[language]:
            problems.extend(f"language {language}: {problem}" for problem in found.values())
    return chosen, problems


def _deal(shares: list[float], num_samples: int, cache: IndexCache) -> tuple[NDArray[Any], ...]:
    """Return the result of `deal_out`, and the number of samples of each dataset."""

    def build() -> tuple[NDArray[Any], ...]:
        which, number = deal_out(shares, num_samples)
        drawn = np.zeros(len(shares), dtype=np.int64)
        for start in range(0, num_samples, _AT_ONCE):
            drawn += np.bincount(which[start : start + _AT_ONCE], minlength=len(shares))
        return which, number, drawn

    if num_samples == 0:
        return build()
    return cache.get("mix", {"shares": shares, "num_samples": num_samples}, ("which", "number", "drawn"), build)


def _join(datasets: list[CodeSwitchDataset]) -> SampleDataset:
    """Return the samples of some datasets as one, evenly mixed."""
    if len(datasets) == 1:
        return datasets[0]
    sizes = np.array([len(dataset) for dataset in datasets])
    which, number = np.zeros(sizes.sum(), dtype=np.int16), np.zeros(sizes.sum(), dtype=np.int64)
    helpers.build_exhaustive_blending_indices(which, number, sizes, len(sizes))
    keys = {str(index): float(size) for index, size in enumerate(sizes)}
    return MixedDataset(MixSegment(0, keys, {}), datasets, which, number)


@dataclass(frozen=True)
class _CoreTokenizer:
    """The tokenizer that megatron-core's datasets need; without a pad token nothing is masked as padding."""

    vocab_size: int
    eod: int
    unique_identifiers: Mapping[str, str]


def _online_switch(data: DataConfig, tokenizer: Tokenizer) -> OnlineSwitch:
    lexicon = _online_lexicon(data)
    return OnlineSwitch(
        table=compile_lexicon(lexicon, tokenizer),
        fingerprint=lexicon.fingerprint,
        ratios=data.codeswitch_ratios,
        seed=data.codeswitch_seed,
        prefixes=frozenset(_online_prefixes(data)),
    )


def _online_lexicon(data: DataConfig) -> Lexicon:
    paths = [Path(path) for path in data.codeswitch_lexicon_paths]
    return read_lexicon(paths, data.codeswitch_language, data.codeswitch_target_language)


def _online_prefixes(data: DataConfig) -> list[str]:
    entries = [entry for entry in data.blend if entry.language == data.codeswitch_language]
    return [prefix for entry in entries for prefix in find_prefixes(entry.prefix)]


class _Builder:
    """Opens parts of baked datasets."""

    def __init__(
        self, data: DataConfig, tokenizer: Tokenizer, seed: int, cache: IndexCache, online: OnlineSwitch | None = None
    ) -> None:
        """Make the common configuration; datasets named by `online` are switched while they are read."""
        self._kind = CodeSwitchDataset if online is None else OnlineCodeSwitchDataset
        eod = -1 if tokenizer.eod_id is None else tokenizer.eod_id
        numbers = {
            prefix: data.languages.index(entry.language)
            for entry in (*data.blend, *data.valid_blend)
            for prefix in find_prefixes(entry.prefix)
        }
        self._config = OnlineDatasetConfig(
            online=online,
            random_seed=seed,
            sequence_length=data.seq_length,
            # Only to keep megatron-core from using mock data; each call names what it opens.
            blend=(list(numbers), None),
            split=data.split,
            tokenizer=_CoreTokenizer(tokenizer.vocab_size, eod, {"fingerprint": tokenizer.fingerprint}),
            reset_position_ids=data.reset_position_ids,
            reset_attention_mask=data.reset_attention_mask,
            eod_mask_loss=data.eod_mask_loss,
            create_attention_mask=False,
            label_mode=data.label_mode,
            language_numbers=numbers,
            cache=cache,
        )

    def __call__(self, prefix: str, part: Split, split: str, num_samples: int | None) -> CodeSwitchDataset:
        """Open a part of the dataset at a prefix; without `num_samples` one epoch of it."""
        dataset = open_indexed(prefix)
        indices = np.arange(*split_range(len(dataset), split, part), dtype=np.int32)
        return self._kind(dataset, prefix, indices, num_samples, part, self._config)
