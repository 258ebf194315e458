"""The learning-rate schedule: megatron-core's, built from the configuration."""

import math
from types import SimpleNamespace
from typing import Any, cast

from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_prealign.config import Config


def build_schedule(optimizer: MegatronOptimizer, config: Config) -> OptimizerParamScheduler:
    """Build the learning-rate schedule, counted in optimizer steps.

    Rates are those of the configuration, also where the optimizer was loaded from a run with others.
    """
    for group in optimizer.param_groups:
        group["max_lr"], group["min_lr"] = config.optimizer.lr, config.optimizer.min_lr
    return _schedule(optimizer, config)


def learning_rate(config: Config, steps_done: int) -> float:
    """Return the learning rate of the step after `steps_done` steps."""
    schedule = _schedule(cast(MegatronOptimizer, SimpleNamespace(param_groups=[])), config)
    schedule.num_steps = steps_done
    return float(schedule.get_lr({}))


def decay_steps(config: Config) -> int:
    """Return the step at which optimizer.min_lr is reached."""
    return config.schedule.lr_decay_steps or config.training.train_steps


def _schedule(optimizer: Any, config: Config) -> OptimizerParamScheduler:
    options, schedule = config.optimizer, config.schedule
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=options.lr,
        min_lr=options.min_lr,
        lr_warmup_steps=schedule.lr_warmup_steps,
        lr_decay_steps=decay_steps(config),
        lr_decay_style="WSD" if schedule.lr_decay_style == "wsd" else schedule.lr_decay_style,
        wsd_decay_steps=schedule.lr_wsd_decay_steps or math.ceil(0.2 * decay_steps(config)),
        lr_wsd_decay_style="linear",
        start_wd=options.weight_decay,
        end_wd=options.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
    )
