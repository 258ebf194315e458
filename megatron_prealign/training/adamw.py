"""AdamW for machines without Transformer Engine's and apex's, with a state that reshards.

megatron-core's distributed optimizer cannot reload torch's AdamW, which keeps a `step` for each parameter. Apex and
Transformer Engine keep one for each parameter group, and so does this AdamW, which is registered in apex's place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.adamw import adamw

from megatron_prealign.errors import CheckpointError
from megatron_prealign.optional_packages import is_usable
from megatron_prealign.platform.megatron.optimizer import use_adamw


class GroupStepAdamW(torch.optim.Optimizer):
    """torch's fused AdamW kernel with one `step` per parameter group."""

    def __init__(self, params: Any, adam_w_mode: bool = True, capturable: bool = False, **defaults: Any) -> None:
        """Take apex's arguments: lr, weight_decay, betas, eps; weight decay must be decoupled.

        From 0.19 on megatron-core passes `capturable` too; other AdamWs keep no such entry in their groups.
        """
        assert adam_w_mode, "only decoupled weight decay"
        assert not capturable, "no CUDA graphs of the optimizer's step"
        # Apex's and Transformer Engine's AdamW read it from the groups, which this one may have saved.
        super().__init__(params, {**defaults, "bias_correction": True})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of any AdamW that keeps `step` in the parameter group.

        Raises:
            CheckpointError: It was saved with an option that this one lacks.
        """
        if not all(group.get("bias_correction", True) for group in state_dict["param_groups"]):
            raise CheckpointError(
                "the optimizer was saved with bias_correction off, which only the AdamW of Transformer Engine and apex "
                "offer; resume where one of them is installed, or load only the weights with checkpoint.init_from"
            )
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; count one step for every group.

        Groups without parameters count too: in the distributed optimizer other ranks may hold their parameters, and
        rank 0's groups are saved for all.
        """
        assert closure is None, "megatron-core's optimizers call step without a closure"
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
            step = group.get("step", 0)
            if parameters:
                self._update(group, parameters, step)
            group["step"] = step + 1

    def _update(self, group: dict[str, Any], parameters: list[torch.Tensor], step: int) -> None:
        # The kernel increments the steps that it gets; these are copies of the group's one.
        steps = torch.full((len(parameters),), float(step), device=parameters[0].device).unbind()
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [self.state[parameter]["exp_avg"] for parameter in parameters],
            [self.state[parameter]["exp_avg_sq"] for parameter in parameters],
            [],
            list(steps),
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def register(device: torch.device) -> None:
    """Make megatron-core use `GroupStepAdamW` if no other AdamW is installed or can run."""
    if device.type == "cpu" or not (is_usable("transformer_engine") or is_usable("apex")):
        use_adamw(GroupStepAdamW)
