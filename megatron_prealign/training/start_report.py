"""Describe the weights that a run starts from, and a learning rate that changed since the checkpoint."""

from operator import attrgetter
from pathlib import Path

from megatron_prealign.checkpoint import folder
from megatron_prealign.config import Config, describe_changes, load_resolved
from megatron_prealign.reports.records import METRICS
from megatron_prealign.training.optimizer import decay_steps, learning_rate
from megatron_prealign.training.record_file import discarded_path
from megatron_prealign.training.state import TrainState, has_lost_patience

_MARKED_RATIO = 0.05
"""Smallest relative difference of two learning rates that is reported."""

# Fields that a rate depends on, besides the steps of the decay.
_RATE_FIELDS = (
    "optimizer.lr",
    "optimizer.min_lr",
    "schedule.lr_decay_style",
    "schedule.lr_warmup_steps",
    "schedule.lr_wsd_decay_steps",
)


def describe_weights(config: Config, state: TrainState, resume_from: Path | None, init_from: Path | None) -> str:
    """Return what the run starts from; for a resumed run, also what changed since the checkpoint."""
    if resume_from is not None:
        return _describe_resume(config, state, resume_from)
    lost = _describe_lost_run(config)
    if init_from is not None:
        taken = "weights and optimizer" if config.checkpoint.init_optimizer else "weights"
        return "\n".join([*lost, f"Starting from the {taken} of {init_from}."])
    return "\n".join([*lost, "Starting from fresh weights."])


def _describe_lost_run(config: Config) -> list[str]:
    """Return a warning if a run without a checkpoint has records: its checkpoints were lost, and it starts over."""
    run = config.training.run_path
    path = Path(run, METRICS)
    if not path.is_file() or path.stat().st_size == 0:
        return []
    return [
        f"WARNING: {path} has records, but {run} has no checkpoint: the run starts over and moves them to "
        f"{discarded_path(path).name}. If checkpoints should be there, stop and restore them"
    ]


def _describe_resume(config: Config, state: TrainState, checkpoint: Path) -> str:
    step, steps = state.step, config.training.train_steps
    if has_lost_patience(config, state):
        return (
            f"Nothing to do: {checkpoint} ended at step {step} of {steps}, because held-out retrieval did not rise "
            f"for {state.validations_since_best} validations; raise alignment.patience to continue."
        )
    if step == steps:
        return f"Nothing to do: {checkpoint} is step {step} of {steps}; raise training.train_steps to continue."
    saved = load_resolved(checkpoint / folder.CONFIG)
    changes = describe_changes(config, saved)
    changed = ["; changed since then:", *(f"  {line}" for line in changes)] if changes else ["."]
    changed += describe_rate_change(config, saved, step)
    return f"Continuing from {checkpoint}, step {step} of {steps}" + "\n".join(changed)


def describe_rate_change(config: Config, saved: Config, step: int) -> list[str]:
    """Return a warning if the step after `step` gets another learning rate than the saved configuration gives."""
    now, before = learning_rate(config, step), learning_rate(saved, step)
    if abs(now - before) <= _MARKED_RATIO * max(now, before):
        return []
    kept = max(float(f"{before:.6g}"), config.optimizer.min_lr)
    return [
        f"WARNING: the learning rate of step {step + 1} is {now:.3g}; the configuration of the checkpoint would "
        f"give {before:.3g}. To keep that schedule: {' '.join(_options_to_keep(config, saved))}; to keep that rate: "
        f"--schedule.lr_decay_style constant --schedule.lr_warmup_steps 0 --optimizer.lr {kept}"
    ]


def _options_to_keep(config: Config, saved: Config) -> list[str]:
    """Return the options that restore the schedule of the saved configuration."""
    options = []
    if decay_steps(config) != decay_steps(saved):
        options.append(f"--schedule.lr_decay_steps {decay_steps(saved)}")
    for name in _RATE_FIELDS:
        there = attrgetter(name)(saved)
        if there != attrgetter(name)(config):
            options.append(f"--{name} {'none' if there is None else there}")
    return options
