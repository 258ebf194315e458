"""Trainers inside test processes, over files or random data, and the values that tests compare."""

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.utils import unwrap_model
from torch import Tensor
from torch.overrides import TorchFunctionMode

from megatron_prealign.alignment import Taps
from megatron_prealign.config import Config, config_from_dict
from megatron_prealign.config.alignment_validation import aligns_words
from megatron_prealign.dataset.sampler import Batch
from megatron_prealign.model.parameters import named_global_parameters, unshard
from megatron_prealign.pairs.batches import Ints, ItemBatches, Keys
from megatron_prealign.platform import (
    Mesh,
    Platform,
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
)
from megatron_prealign.text.ragged import Ragged
from megatron_prealign.training.guards import Guard
from megatron_prealign.training.interruption import Interruption
from megatron_prealign.training.invariants import check_replicas
from megatron_prealign.training.loop import Trainer
from megatron_prealign.training.objectives.alignment import AlignmentPlan
from megatron_prealign.training.objectives.language_modelling import LanguageModelling
from megatron_prealign.training.objectives.objective import Objective, Surroundings
from megatron_prealign.training.objectives.stage import Stage, Weight
from megatron_prealign.training.optimizer import build_schedule, gather_parameters
from megatron_prealign.training.setup import build_trainer, plan_run
from megatron_prealign.training.state import TrainState
from megatron_prealign.training.throughput import ProfileWindow, Throughput

Values = Mapping[str, Mapping[str, Any]]
"""A configuration as a nested dictionary {section: {field: value}}."""
_END, _DOCUMENT, _COUNTED = 0, 256, 512
"""Of random sequences: the token that ends a document, the tokens of one, and how far they count."""


def make_trainer(values: Values) -> Trainer:
    """Build the trainer of a configuration in this process, a lone one or a rank with torchrun's environment.

    The first call makes the process groups, so all trainers of a process share one layout.
    """
    config: Config = config_from_dict(values)
    plan = plan_run(config)
    platform = select_platform(config.training.device, int(os.environ.get("LOCAL_RANK", "0")))
    initialize_distributed(platform)
    mesh = initialize_model_parallel(config.parallel, config.training.seed)
    return build_trainer(plan, platform, mesh)


class _RandomItems(ItemBatches):
    """Pairs of words of one to four random tokens."""

    kind = "word"
    option = "alignment.lexicon_paths"
    fingerprint = "none"
    mean_tokens = 0.0

    def __init__(self, config: Config) -> None:
        draws, alignment = np.random.default_rng(0), config.alignment
        num_groups = 4 * alignment.word_batch_size
        lengths = draws.integers(1, 5, 2 * num_groups)
        tokens = draws.integers(0, config.model.vocab_size or 1, int(lengths.sum()), dtype=np.int32)
        size, row = alignment.word_batch_size, alignment.word_row_length
        super().__init__(Ragged.of(tokens, lengths), num_groups, 2, seed=0, batch_size=size, row_length=row)

    def describe(self) -> str:
        return self.kind

    def _items(self, groups: Ints, keys: Keys) -> tuple[Ints, Ints]:
        return (2 * groups[:, None] + np.arange(2)).ravel(), np.repeat(np.arange(len(groups)), 2)

    def _excluded_pairs(self, item_ids: Ints, group_ids: Ints) -> Ints:
        return np.zeros((0, 2), dtype=np.int64)


class RandomSequences:
    """Draws the microbatches of a step, on the host: documents that count up, a tenth of whose tokens is noise.

    A model learns them within some ten steps.
    """

    def __init__(self, config: Config, mesh: Mesh) -> None:
        """Take sizes from the configuration; all ranks draw the same."""
        training = config.training
        self._shape = training.micro_batch_size, config.data.seq_length
        self._count = training.global_batch_size // (training.micro_batch_size * mesh.data.size)
        self._vocab_size = config.model.vocab_size or 2
        self._draws = torch.Generator().manual_seed(0)
        self._num_samples = 0

    def take(self, state: TrainState) -> list[Batch]:
        """Return the microbatches of the next step."""
        return [self._draw() for _ in range(self._count)]

    def _draw(self) -> Batch:
        rows, length = self._shape
        noise = torch.randint(1, self._vocab_size, (rows, length + 1), generator=self._draws)
        counted = (noise[:, :1] + torch.arange(length + 1)) % min(self._vocab_size, _COUNTED)
        keep = torch.rand(noise.shape, generator=self._draws) < 0.9
        tokens = torch.where(keep, counted, noise)
        tokens[:, _DOCUMENT - 1 :: _DOCUMENT] = _END
        self._num_samples += rows
        return {
            "tokens": tokens[:, :-1].contiguous(),
            "labels": tokens[:, 1:].contiguous(),
            "position_ids": torch.arange(length).repeat(rows, 1),
            "loss_mask": torch.ones(rows, length),
            "loss_group": torch.zeros(rows, length, dtype=torch.int16),
            "sample": torch.arange(self._num_samples - rows, self._num_samples),
        }


def make_random_trainer(
    config: Config, mesh: Mesh, platform: Platform, chunks: list[torch.nn.Module], optimizer: MegatronOptimizer
) -> Trainer:
    """Build a trainer over random data, for memory and speed: no files, no validation and no records on disk."""
    state, throughput = TrainState(), Throughput(config, mesh.world_size, platform.peak_flops())
    surroundings = Surroundings(chunks, platform.device, mesh, cache(lambda: Taps(chunks)), throughput.waiting)
    parts: list[tuple[Objective, Weight]] = []
    if aligns_words(config):
        parts.append((AlignmentPlan(config, _RandomItems(config)).build(state, surroundings), lambda _: 1.0))
    border = _END if config.data.reset_attention_mask else None
    sequences: Any = RandomSequences(config, mesh)
    parts.append((LanguageModelling(platform.device, ["en"], sequences, end_of_document=border), lambda _: 1.0))
    interruption = Interruption(None)
    return Trainer(
        config=config,
        platform=platform,
        chunks=chunks,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config),
        stage=Stage(config.training.stage, parts),
        validator=None,
        word_validator=None,
        metrics=None,
        throughput=throughput,
        profile=ProfileWindow(config, mesh.rank),
        interruption=interruption,
        guard=Guard(config, 0, interruption, None),
        tokenizer_path=Path(config.data.tokenizer_path),
    )


def full_gradients(chunks: list[torch.nn.Module]) -> dict[str, Tensor]:
    """Return the whole model's reduced gradients under their global names; collective.

    Not for the distributed optimizer, whose ranks hold the reduced gradients of their own parts only.
    """
    local = {}
    mesh = Mesh.current()
    for model in unwrap_model(chunks):
        for name, parameter in named_global_parameters(model):
            gradient = parameter.main_grad.clone()  # type: ignore[attr-defined]
            parts = [torch.empty_like(gradient) for _ in range(mesh.tensor.size)]
            torch.distributed.all_gather(parts, gradient, group=mesh.tensor.group)
            local[name] = unshard(parts, name, parameter, model).cpu()
    stages: list[Any] = [None] * mesh.pipeline.size
    torch.distributed.all_gather_object(stages, local, group=mesh.pipeline.group)
    return {name: gradient for stage in stages for name, gradient in stage.items()}


def run_steps(values: Values, num_steps: int) -> dict[str, Any]:
    """Take optimizer steps.

    Returns:
        Metrics and gradient norm of each, the first step's gradients, and the sequences of all.
    """
    trainer = make_trainer(values)
    gradients: dict[str, Tensor] = {}
    steps = []
    for _ in range(num_steps):
        trainer.compute_gradients()
        if not gradients and not trainer.config.parallel.use_distributed_optimizer:
            gradients = full_gradients(trainer.chunks)
        norm = trainer.update()
        steps.append({**trainer.stage.take_metrics(), "gradient_norm": norm})
    gather_parameters(trainer.chunks)
    check_replicas(trainer.chunks)
    return {"steps": steps, "gradients": gradients, "consumed_samples": trainer.state.consumed_samples}


def run_all_steps(configurations: list[Values], num_steps: int) -> list[dict[str, Any]]:
    """Run `run_steps` for several configurations of one layout in the same processes."""
    return [run_steps(values, num_steps) for values in configurations]


def train_and_save_all(configurations: list[Values]) -> list[list[dict[str, Any]]]:
    """Train each run from its position to its last step, save, and return the metrics of each step."""
    return [_train_and_save(values) for values in configurations]


def _train_and_save(values: Values) -> list[dict[str, Any]]:
    trainer = make_trainer(values)
    records = []
    while trainer.state.step < trainer.config.training.train_steps:
        norm = trainer.train_step()
        records.append({**trainer.stage.take_metrics(), "gradient_norm": norm})
    trainer.save()
    return records


def validate(values: Values) -> dict[str, float]:
    """Return the validation loss of each language before training."""
    trainer = make_trainer(values)
    assert trainer.validator is not None, "training.eval_interval is 0"
    return trainer.validator.run(trainer.chunks)["loss"]


class Float64(TorchFunctionMode):
    """Compute in float64 wherever the code asks for fp32, so that a remaining difference is not rounding."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = {name: _widened(value) for name, value in (kwargs or {}).items()}
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        result = func(*map(_widened, args), **kwargs)
        # Optimizers and gradient clipping take fp32 by its name.
        if func is torch.Tensor.type and isinstance(result, str):
            return result.replace("Double", "Float")
        return result


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
