"""Parameter groups of one AdamW, made fit for another: each reads its options from the groups, not all the same."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer

from megatron_prealign.errors import CheckpointError
from megatron_prealign.platform.megatron.optimizer import torch_optimizers

Group = dict[str, Any]


def complete_groups(state: dict[str, Any], optimizer: MegatronOptimizer) -> None:
    """Give the parameter groups of a loaded state what this run's optimizer reads from them and they lack.

    torch replaces an optimizer's groups by the saved ones, so what these lack is gone. What they have and this
    optimizer does not read stays in them.

    Args:
        state: of the optimizer, as loaded; changed in place.
        optimizer: of this run, which is to load it.

    Raises:
        CheckpointError: A step count is none.
    """
    groups = list(_saved_groups(state))
    for inner in torch_optimizers(optimizer):
        for group in groups:
            # torch adds names of its own to the defaults when it loads; no group has them from the start.
            for name in inner.defaults.keys() & inner.param_groups[0].keys():
                group.setdefault(name, inner.defaults[name])
            # megatron-core finds the group that it loads by its rates, too, from 0.18 on; they are the configuration's.
            group.update({name: rate for name, rate in inner.param_groups[0].items() if name in ("max_lr", "min_lr")})
    # Rank 0's groups are saved for all. Those that held none of its parameters were not counted by older versions,
    # by apex, and by Transformer Engine before 2.20; every group takes part in every step.
    steps = [group["step"] for group in groups if "step" in group]
    if not all(isinstance(step, int | float | torch.Tensor) and 0 <= float(step) < math.inf for step in steps):
        raise CheckpointError(f"the optimizer's step counts {steps} can't be; name another checkpoint")
    step = max(steps, default=None)
    if step is not None:
        for group in groups:
            group["step"] = step


def _saved_groups(state: dict[Any, Any]) -> Iterator[Group]:
    for name, value in state.items():
        if name == "param_groups":
            yield from value
        elif isinstance(value, dict):
            yield from _saved_groups(value)
