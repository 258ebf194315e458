"""The sequences of a run: from the blend to batches, and the run's position in them."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from megatron_prealign.config import Config, TrainingConfig
from megatron_prealign.config.training import count_samples, global_batch_size_at
from megatron_prealign.dataset.blend import (
    MixedDataset,
    build_train_dataset,
    build_valid_datasets,
    online_problems,
    train_problems,
    valid_problems,
)
from megatron_prealign.dataset.index_cache import IndexCache
from megatron_prealign.dataset.mix import BakedDataset, MixRequest, check_blend, read_datasets
from megatron_prealign.dataset.sampler import Batch, SampleDataset, StepLoader
from megatron_prealign.errors import CheckpointError, ConfigError
from megatron_prealign.platform import Mesh
from megatron_prealign.platform.agreement import failing_together, from_all_ranks
from megatron_prealign.ranks import is_first_of_host
from megatron_prealign.text.tokenizer import Tokenizer
from megatron_prealign.training.state import TrainState
from megatron_prealign.training.throughput import Stopwatch

T = TypeVar("T")


class Sequences:
    """Returns the microbatches of each step in turn, and advances the run's position."""

    def __init__(self, dataset: MixedDataset, batches: Iterator[list[Batch]], training: TrainingConfig) -> None:
        """Read steps from `batches`, an iterator over `dataset`."""
        self._dataset = dataset
        self._batches = batches
        self._training = training

    def take(self, state: TrainState) -> list[Batch]:
        """Return this rank's microbatches of the next step and advance `state` past the step."""
        batches = next(self._batches)
        count = global_batch_size_at(self._training, state.consumed_samples)
        drawn = self._dataset.count_draws(state.consumed_samples, count)
        # A new dictionary: the guards keep the state before the step.
        state.positions = _add(state.positions, drawn)
        state.consumed_samples += count
        state.lm_tokens += count * batches[0]["tokens"].shape[1]
        return batches


@dataclass(frozen=True)
class SequencePlan:
    """The datasets of a run; needs no process group until it is opened."""

    config: Config
    tokenizer: Tokenizer
    datasets: list[list[BakedDataset]]
    """Of each entry of the blend."""

    @property
    def document_border(self) -> int | None:
        """The token that attention does not cross, or None."""
        return self.tokenizer.eod_id if self.config.data.reset_attention_mask else None

    def _request(self, state: TrainState) -> MixRequest:
        """Return what the configuration draws from the datasets in past and future steps."""
        training = self.config.training
        num_samples = count_samples(training, state.step, state.consumed_samples)
        return MixRequest(self.config.data, self.datasets, num_samples, training.global_batch_size)

    def resume_problems(self, state: TrainState, checkpoint: Path | None = None) -> list[str]:
        """Add the configuration's mix to the state's history if it is new; return its problems."""
        if state.consumed_samples and not state.mixes:
            return [
                "the checkpoint of this run does not record which data it was trained on; start a new run with "
                "checkpoint.init_from"
            ]
        request = self._request(state)
        state.mixes, problems = request.continue_from(state.mixes, state.consumed_samples, state.positions)
        return problems

    def describe(self, state: TrainState) -> str:
        """Return the table of what the run draws from each entry."""
        return self._request(state).describe(state.mixes, state.consumed_samples, state.positions)

    def training_set(self, state: TrainState, cache: IndexCache) -> MixedDataset:
        """Build what the last mix of the state's history draws."""
        return build_train_dataset(
            self.config.data,
            self.tokenizer,
            num_samples=self._request(state).num_samples,
            seed=self.config.training.seed,
            cache=cache,
            mix=state.mixes[-1],
        )

    def validation_sets(self, cache: IndexCache) -> dict[str, SampleDataset]:
        """Build what each language is validated on."""
        return build_valid_datasets(self.config.data, self.tokenizer, seed=self.config.training.seed, cache=cache)

    def open(self, state: TrainState, mesh: Mesh, waiting: Stopwatch) -> Sequences:
        """Build the training set and its loader, starting after the samples that `state` has seen; collective.

        Raises:
            PrealignError: the mix can't be drawn, or not from the position in the checkpoint.
        """
        training = self.config.training
        if problems := self.resume_problems(state):
            raise ConfigError(problems)
        dataset = build_together(
            "training", lambda cache: self.training_set(state, cache), cache_path(self.config), mesh
        )
        mix = state.mixes[-1]
        if _add(mix.positions, dataset.count_draws(mix.start, state.consumed_samples - mix.start)) != state.positions:
            raise CheckpointError(
                "the checkpoint's positions in the data do not follow from its mixes: another version of this program "
                "wrote it; start a new run with checkpoint.init_from"
            )
        loader = StepLoader(
            dataset,
            micro_batch_size=training.micro_batch_size,
            global_batch_size=training.global_batch_size,
            data_parallel_rank=mesh.data.rank,
            data_parallel_size=mesh.data.size,
            consumed_samples=state.consumed_samples,
            batch_size_at=partial(global_batch_size_at, training),
            num_workers=self.config.data.num_workers,
        )
        return Sequences(dataset, waiting.timed(loader), training)


def find_datasets(config: Config, tokenizer: Tokenizer) -> tuple[list[list[BakedDataset]], list[str]]:
    """Open the datasets of the blend, and return their problems; if there are any, the list may be empty."""
    if problems := check_blend(config.data, tokenizer) or train_problems(config.data):
        return [], problems
    if config.training.eval_interval:
        problems += valid_problems(config.data)
    if config.data.codeswitch == "online":
        problems += online_problems(config.data)
    return read_datasets(config.data), problems


def cache_path(config: Config) -> Path:
    """Return the folder of the sample index."""
    return Path(config.data.cache_path or Path(config.training.run_path) / "cache")


def build_together(of: str, build: Callable[[IndexCache], T], folder: Path, mesh: Mesh) -> T:
    """Build datasets on all ranks, `of` training or validation, whose indices are built once; collective.

    Rank 0 builds indices that are not in the folder, then the first rank of each host that does not see them; all other
    ranks read. If a turn fails on one rank, it fails on all.
    """
    turns = from_all_ranks(0 if mesh.rank == 0 else 1 if is_first_of_host() else 2)
    built: list[T] = []
    for turn in sorted(set(turns)):
        with failing_together():
            if turns[mesh.rank] == turn:
                cache = IndexCache(folder, read_only=turn == 2)
                built.append(build(cache))
                if turn == 0 or cache.built:
                    host = "" if turn == 0 else f"rank {mesh.rank}, on a host of its own: "
                    print(f"{host}{cache.describe(of)}", file=sys.stderr, flush=True)
    return built[0]


def _add(counts: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {key: counts.get(key, 0) + more.get(key, 0) for key in {**counts, **more}}
