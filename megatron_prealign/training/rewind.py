"""Going back to the weights of a checkpoint while the data goes on."""

from collections.abc import Callable

import torch
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_prealign.checkpoint.folder import agree_on_checkpoint
from megatron_prealign.checkpoint.sharded import load_training_state
from megatron_prealign.config import Config
from megatron_prealign.training.schedule import build_schedule
from megatron_prealign.training.state import TrainState


def rewind(
    config: Config,
    chunks: list[torch.nn.Module],
    optimizer: MegatronOptimizer,
    state: TrainState,
    say: Callable[[str], None] | None,
) -> OptimizerParamScheduler | None:
    """Load the run's newest checkpoint, if it has one, and count it; return the schedule that goes on; collective."""
    checkpoint = agree_on_checkpoint(config.training.run_path, config.checkpoint.verify)
    if say is not None:
        weights = "nothing is saved yet: the weights stay" if checkpoint is None else f"back to {checkpoint}"
        say(f"step {state.step}: {weights}, and the data goes on")
    if checkpoint is None:
        return None
    # Not its random states: what is drawn next belongs to the data that comes next.
    load_training_state(checkpoint, chunks, optimizer)
    state.rewinds += 1
    # The rates came back with the optimizer, too.
    schedule = build_schedule(optimizer, config)
    schedule.step(state.step)
    return schedule
