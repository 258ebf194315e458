"""The inside of megatron-core's optimizers: what they consist of, and what they are given in place of their own."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core import optimizer as core_optimizer
from megatron.core import utils
from megatron.core.optimizer import MegatronOptimizer, clip_grads, distrib_optimizer
from megatron.core.optimizer import optimizer as core_base
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import MixedPrecisionOptimizer


def optimizer_parts(optimizer: MegatronOptimizer | None) -> list[Any]:
    """Return the optimizers that one consists of: with experts it is a chain of several."""
    return [part for part in getattr(optimizer, "chained_optimizers", [optimizer]) if part is not None]


def distributed_parts(optimizer: MegatronOptimizer | None) -> list[DistributedOptimizer]:
    """Return the distributed optimizers that an optimizer consists of; empty where it is a plain one."""
    return [part for part in optimizer_parts(optimizer) if isinstance(part, DistributedOptimizer)]


def torch_optimizers(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    """Return the optimizers of torch's kind that a megatron-core optimizer drives."""
    return [part.optimizer for part in optimizer_parts(optimizer) if part.optimizer is not None]


def allocate_moments(optimizer: MegatronOptimizer) -> None:
    """Allocate the moments now: a checkpoint without them, as after skipping all steps, can't be loaded."""
    for part in optimizer_parts(optimizer):
        if part.init_state_fn:
            part.init_state_fn(part.optimizer, part.config)
    for inner in torch_optimizers(optimizer):
        for parameter in (parameter for group in inner.param_groups for parameter in group["params"]):
            if not parameter.is_leaf:
                # In fp32 the distributed optimizer's parameters are views of the model's, whose .grad it reads: torch
                # warns of that on each rank unless the gradient is to be kept.
                parameter.retain_grad()


def weights_from_main_parameters(optimizer: MegatronOptimizer, chunks: Sequence[torch.nn.Module]) -> None:
    """Make the model's weights those of the loaded main parameters, rounded to its precision; collective.

    Those read from the checkpoint were rounded to the precision of the run that saved it.
    """
    for part in optimizer_parts(optimizer):
        if isinstance(part, MixedPrecisionOptimizer):
            part._copy_main_params_to_model_params()
    if distributed_parts(optimizer):
        for chunk in chunks:
            chunk.start_param_sync(force_sync=True)  # type: ignore[operator]


def use_adamw(adamw: type[torch.optim.Optimizer]) -> None:
    """Make megatron-core's optimizers use this class in apex's place, and kernels that run on every device.

    Can go when the distributed optimizer reloads torch.optim.AdamW.
    """
    # megatron-core takes what is installed; on a CPU it would be given kernels that read a GPU's memory.
    for module in (clip_grads, core_base):
        module.multi_tensor_applier = utils.local_multi_tensor_applier
        module.multi_tensor_scale_impl = utils.local_multi_tensor_scale
    # From 0.18 on; None selects the kernel above.
    clip_grads.multi_tensor_scale_tensor_impl = None
    core_optimizer.Adam = adamw
    core_optimizer.USING_PYTORCH_OPTIMIZER = False
    distrib_optimizer.Adam = adamw
    distrib_optimizer.HAVE_APEX_OR_TE = True
    distrib_optimizer.USING_APEX_OPTIMIZER = True


@contextlib.contextmanager
def built_with(make: Callable[..., torch.optim.Optimizer]) -> Iterator[None]:
    """Let optimizers that megatron-core builds inside the context use what this returns for the arguments of apex's.

    Not for the distributed optimizer. Can go when megatron-core's own Muon needs no package beyond PyPI's.
    """
    before = core_optimizer.Adam, core_optimizer.USING_PYTORCH_OPTIMIZER
    core_optimizer.Adam, core_optimizer.USING_PYTORCH_OPTIMIZER = make, False
    try:
        yield
    finally:
        core_optimizer.Adam, core_optimizer.USING_PYTORCH_OPTIMIZER = before


def use_gradient_norm(norm: Callable[..., float]) -> None:
    """Make megatron-core's optimizers clip by this function of the arguments of its `get_grad_norm_fp32`.

    Can go when theirs is exact on CPUs and reads nothing back.
    """
    core_base.get_grad_norm_fp32 = norm
