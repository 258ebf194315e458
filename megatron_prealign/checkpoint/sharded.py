"""Sharded checkpoints through megatron-core's dist_checkpointing: saved at one layout, loaded at any."""

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedObject
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.utils import unwrap_model
from rich.filesize import decimal
from torch.distributed.checkpoint.api import CheckpointException

from megatron_prealign.checkpoint import folder
from megatron_prealign.checkpoint.environment import Environment
from megatron_prealign.checkpoint.hosts import find_keepers, on_keepers, share_files
from megatron_prealign.checkpoint.manifest import seal_files, write_manifest
from megatron_prealign.checkpoint.portability import RANDOM_STATES, may_be_absent
from megatron_prealign.checkpoint.safe_pickle import check_extra_states, pickled_states_allowed
from megatron_prealign.checkpoint.torch_dist import read_boxes, read_sharded
from megatron_prealign.config import Config, ParallelConfig, dump_config, load_resolved
from megatron_prealign.errors import CheckpointError, PrealignError, TrainingError
from megatron_prealign.model import PrealignGPTModel, build_model_chunks
from megatron_prealign.model.parameters import named_global_parameters
from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform
from megatron_prealign.platform.agreement import failing_together, from_all_ranks, on_first_rank
from megatron_prealign.platform.distributed import RandomStates, get_random_states
from megatron_prealign.platform.megatron.optimizer import (
    distributed_parts,
    torch_optimizers,
    weights_from_main_parameters,
)
from megatron_prealign.platform.megatron.optimizer_shards import Box, optimizer_boxes
from megatron_prealign.platform.megatron.torch_dist import write_sharded
from megatron_prealign.text.tokenizer import load_tokenizer

RANDOM_STATES_KEY = "random_states"
TOKENIZER_COMPANIONS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates",
    "huggingface.json",
)
"""What belongs to a tokenizer besides the file with its vocabulary, if it is there."""


def _random_states(states: RandomStates | None) -> ShardedObject:
    """Return the entry of this rank's random states in a checkpoint: each rank has its own."""
    shape, offset = (torch.distributed.get_world_size(),), (torch.distributed.get_rank(),)
    return ShardedObject(RANDOM_STATES_KEY, states, shape, offset)


def _sharded_model(chunks: list[torch.nn.Module]) -> dict[str, Any]:
    return {f"model{index}": chunk.sharded_state_dict() for index, chunk in enumerate(unwrap_model(chunks))}


def _sharded_optimizer(optimizer: MegatronOptimizer | None, model: dict[str, Any], is_loading: bool) -> dict[str, Any]:
    """Return the optimizer's part of a sharded state dict, without the tensors of `optimizer_boxes`."""
    if optimizer is None:
        return {}
    if distributed_parts(optimizer):
        # megatron-core's name for the format, so that its own code can load it too.
        return {"optimizer": {**optimizer.state_dict(), "param_state_sharding_type": "fully_reshardable"}}
    return {"optimizer": optimizer.sharded_state_dict(model, is_loading=is_loading)}


def save_checkpoint(
    config: Config,
    chunks: list[torch.nn.Module],
    optimizer: MegatronOptimizer,
    state: dict[str, Any],
    tokenizer_path: Path,
) -> Path:
    """Save model, optimizer, random states, counters, configuration and tokenizer; return the folder; collective.

    Args:
        config: the resolved configuration.
        chunks: this rank's wrapped model chunks.
        optimizer: their optimizer.
        state: plain counters with at least `step`.
        tokenizer_path: file or folder.

    Raises:
        CheckpointError: A rank could not write; raised on all. Earlier checkpoints are untouched.
    """
    final = folder.step_path(config.training.run_path, state["step"])
    keepers = [0]
    environment = dataclasses.asdict(Environment.of_run(chunks, optimizer))
    try:
        temporary = on_first_rank(lambda: folder.begin(final))
        keepers = find_keepers(temporary)
        model = _sharded_model(chunks)
        state_dict = {**model, **_sharded_optimizer(optimizer, model, is_loading=False)}
        state_dict[RANDOM_STATES_KEY] = _random_states(get_random_states())
        names = write_sharded(state_dict, temporary, optimizer_boxes(optimizer, model))
        with failing_together():
            entries = seal_files(temporary, names)
        share_files(temporary, keepers)
        shards = {name: entry for part in from_all_ranks(entries) for name, entry in part.items()}

        def finish() -> None:
            (temporary / folder.CONFIG).write_text(dump_config(config), encoding="utf-8")
            (temporary / folder.STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            (temporary / folder.LAYOUT).write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
            copy_tokenizer(tokenizer_path, temporary / folder.TOKENIZER)
            write_manifest(temporary, shards)
            folder.commit(temporary, final, config.checkpoint.keep_last, config.checkpoint.keep_every)

        on_keepers(keepers, finish)
    except PrealignError as error:
        causes = [_explain_write(cause, final.parent) for cause in error.problems]
        if torch.distributed.get_rank() in keepers:
            folder.sweep(final.parent)
        fix = "earlier checkpoints are untouched: fix the cause and repeat the command to resume from the newest"
        raise CheckpointError([*(f"{final} could not be saved: {cause}" for cause in causes), fix]) from error
    return final


def _explain_write(cause: str, path: Path) -> str:
    """Add the free space to a failed write of torch's C++ code, which does not say why it failed."""
    if "iostream error" not in cause:
        return cause
    free = decimal(shutil.disk_usage(path).free)
    return f"{cause}: probably No space left on device ({free} free), or an exhausted quota"


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer file or the tokenizer of a folder, which may hold weights too, into the new folder `target`."""
    target.mkdir()
    file = load_tokenizer(source).path
    for path in (file, *(file.parent / name for name in TOKENIZER_COMPANIONS)):
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        elif path.is_file():
            shutil.copy2(path, target / path.name)


@dataclasses.dataclass(frozen=True)
class LoadedState:
    """What a load returns besides model and optimizer."""

    random_states: RandomStates | None
    """Of this rank, to be set when construction draws nothing more; None if another layout or device saved them."""

    differences: dict[str, str]
    """Aspects in which the run that saved differs from this one, each with the old and the new value."""


def load_training_state(checkpoint: Path, chunks: list[torch.nn.Module], optimizer: MegatronOptimizer) -> LoadedState:
    """Load model and optimizer of a run to be continued, at any layout, device and kind of layers; collective.

    Raises:
        CheckpointError: The checkpoint does not fit the model, or is damaged.
        TrainingError: A weight is not finite, or a moment of the optimizer is NaN.
    """
    model = _sharded_model(chunks)
    sharded = {**model, **_sharded_optimizer(optimizer, model, is_loading=True)}
    here = Environment.of_run(chunks, optimizer)
    differences = Environment.of_checkpoint(checkpoint).differences(here)
    if RANDOM_STATES.outcome(differences) == "kept":
        sharded[RANDOM_STATES_KEY] = _random_states(None)
    with _errors_named(checkpoint):
        loaded = read_sharded(sharded, checkpoint)
    _load_model(checkpoint, chunks, loaded)

    with _errors_named(checkpoint), failing_together(), _errors_named(checkpoint):
        boxes = _take_over(checkpoint, chunks, optimizer, loaded)
    if distributed_parts(optimizer):
        _load_boxes(checkpoint, boxes)
    _check_moments(checkpoint, optimizer)
    weights_from_main_parameters(optimizer, chunks)
    random_states = loaded.get(RANDOM_STATES_KEY)
    if random_states is not None:
        # Older checkpoints do not say on which device they were saved; the states do.
        differences = Environment.of_checkpoint(checkpoint, random_states).differences(here)
        if RANDOM_STATES.outcome(differences) != "kept":
            random_states = None
    return LoadedState(random_states, differences)


def _take_over(
    checkpoint: Path, chunks: list[torch.nn.Module], optimizer: MegatronOptimizer, loaded: dict[str, Any]
) -> list[Box]:
    """Load the optimizer's state from `loaded`; return the tensors of a distributed one, which are still to be read."""
    if "optimizer" not in loaded:
        raise CheckpointError(
            f"{checkpoint}: it has no optimizer state; load only its weights with checkpoint.init_from"
        )
    _complete_groups(loaded["optimizer"], optimizer)
    optimizer.load_state_dict(loaded["optimizer"])
    # Of a new state dict: loading has replaced the parameters in the old one.
    return optimizer_boxes(optimizer, _sharded_model(chunks))


CONFIGURED = {"betas", "eps", "max_lr", "min_lr"}
"""Options of a parameter group that come from this run's configuration, not from the checkpoint. The learning rate and
weight decay are set in each step; from 0.18 on, megatron-core also matches saved groups by their rates."""


def _complete_groups(state: dict[str, Any], optimizer: MegatronOptimizer) -> None:
    """Set the run's own options in the parameter groups of a loaded state, and add options that they lack; in place.

    torch replaces an optimizer's groups by the saved ones, and each AdamW reads other options from them. Options that
    this optimizer does not read are kept.

    Raises:
        CheckpointError: A step count is not a number.
    """
    groups = list(_saved_groups(state))
    for inner in torch_optimizers(optimizer):
        for group in groups:
            # When loading, torch adds names to the defaults that no group has from the start.
            for name in inner.defaults.keys() & inner.param_groups[0].keys():
                group.setdefault(name, inner.defaults[name])
            group.update({name: inner.param_groups[0][name] for name in CONFIGURED & inner.param_groups[0].keys()})
    # Every group takes part in every step, and rank 0's groups are saved for all ranks. Older versions, apex, and
    # Transformer Engine before 2.20 did not count steps of groups without parameters on rank 0.
    steps = [group["step"] for group in groups if "step" in group]
    if not all(isinstance(step, int | float | torch.Tensor) and 0 <= float(step) < math.inf for step in steps):
        raise CheckpointError(f"the optimizer's step counts {steps} are not valid; use another checkpoint")
    step = max(steps, default=None)
    if step is not None:
        for group in groups:
            group["step"] = step


def _saved_groups(state: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    for name, value in state.items():
        if name == "param_groups":
            yield from value
        elif isinstance(value, dict):
            yield from _saved_groups(value)


def load_weights(checkpoint: Path, chunks: list[torch.nn.Module]) -> None:
    """Load only the weights, at any layout; collective. Build the optimizer afterwards.

    Raises:
        CheckpointError: The checkpoint does not fit the model, or is damaged.
        TrainingError: A weight is not finite.
    """
    sharded = _sharded_model(chunks)
    with _errors_named(checkpoint):
        loaded = read_sharded(sharded, checkpoint)
    _load_model(checkpoint, chunks, loaded)


def _load_boxes(checkpoint: Path, boxes: list[Box]) -> None:
    """Load the distributed optimizer's state, and compare its main parameters with the weights; collective.

    Raises:
        CheckpointError: It is damaged: megatron-core saved it from padded gradient buckets.
    """
    with _errors_named(checkpoint):
        mismatched = read_boxes(boxes, checkpoint)
    names = sorted({name for found in from_all_ranks(mismatched) for name in found})
    if names:
        copies = f"{len(names)} weights differ from them" if names[1:] else "a weight differ from it"
        raise CheckpointError(
            f"{checkpoint}: the optimizer's state is damaged: its fp32 copies of {copies} "
            f"({', '.join(names[:3])}{', ...' if names[3:] else ''}). Check the files with --checkpoint.verify true. "
            "If they are intact, an earlier version saved the copies from padded gradient buckets, and the weights are "
            "sound: start a new run with checkpoint.init_from, without checkpoint.init_optimizer"
        )


def _check_moments(checkpoint: Path, optimizer: MegatronOptimizer) -> None:
    """Refuse NaN in the optimizer's moments: the first step would carry it into the weights."""
    moments = (
        state[name]
        for inner in torch_optimizers(optimizer)
        for state in inner.state.values()
        for name in ("exp_avg", "exp_avg_sq")
        if name in state
    )
    if any(moment.isnan().any() for moment in moments):
        raise TrainingError(
            f"{checkpoint}: the optimizer's moments hold NaN; use another checkpoint, or load only its weights with "
            "checkpoint.init_from"
        )


@contextlib.contextmanager
def _errors_named(checkpoint: Path) -> Iterator[None]:
    """Convert errors inside the context to a CheckpointError about this checkpoint."""
    try:
        yield
    except PrealignError as error:
        raise CheckpointError(error.problems) from error
    except CheckpointException as error:
        # torch's own, not an Exception, with the failure of each rank: a damaged file or a missing part.
        cause, _ = next(iter(error.failures.values()))
        if isinstance(cause, CheckpointError):
            raise cause from error
        raise CheckpointError(
            f"{checkpoint}: can't be loaded ({cause!r}): it is damaged or incomplete; --checkpoint.verify true "
            "names the file; use another checkpoint"
        ) from error
    except Exception as error:
        # megatron-core raises a dozen types here, from missing shards to shapes that differ.
        raise CheckpointError(
            f"{checkpoint}: can't be loaded into this model ({error!r}); use the model settings that it was trained "
            "with, or another checkpoint"
        ) from error


def _load_model(checkpoint: Path, chunks: list[torch.nn.Module], loaded: dict[str, Any]) -> None:
    absent, damaged = [], []
    for index, chunk in enumerate(unwrap_model(chunks)):
        check_extra_states(loaded[f"model{index}"], checkpoint)
        with pickled_states_allowed():
            found = chunk.load_state_dict(loaded[f"model{index}"], strict=False)
        absent += [name for name in (*found.missing_keys, *found.unexpected_keys) if not may_be_absent(name)]
        damaged += [name for name, parameter in named_global_parameters(chunk) if not parameter.isfinite().all()]
    if absent:
        raise CheckpointError(
            f"{checkpoint}: can't be loaded into this model: missing or unexpected weights, such as "
            f"{', '.join(absent[:3])}; use the model settings that it was trained with, or another checkpoint"
        )
    if damaged:
        raise TrainingError(f"{checkpoint}: {', '.join(damaged[:3])} hold NaN or infinity; use another checkpoint")


def load_full_model(path: str | Path) -> tuple[PrealignGPTModel, Config]:
    """Load a step folder, or a run folder's newest checkpoint, as one fp32 model on the CPU, in evaluation mode.

    Makes this process a group of one unless it is in a process group already.

    Returns:
        The model and the configuration it was trained with (its layout replaced by that of one rank).

    Raises:
        CheckpointError: No checkpoint there, or it can't be loaded.
    """
    checkpoint = folder.resolve_checkpoint(path)
    saved = load_resolved(checkpoint / folder.CONFIG)
    training = dataclasses.replace(saved.training, precision="fp32", fp8="none", recompute="none", device="cpu")
    local = dataclasses.replace(saved.model, transformer_impl="local")
    config = dataclasses.replace(saved, model=local, parallel=ParallelConfig(), training=training)
    platform = select_platform("cpu")
    initialize_distributed(platform)
    initialize_model_parallel(config.parallel, config.training.seed)
    (model,) = build_model_chunks(config, platform.device)
    load_weights(checkpoint, [model])
    assert isinstance(model, PrealignGPTModel)
    return model.eval(), config
