"""Trainers inside test processes, and the values that tests compare."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from megatron.core.utils import unwrap_model
from torch import Tensor
from torch.overrides import TorchFunctionMode

from megatron_prealign.config import Config, config_from_dict
from megatron_prealign.model.parameters import named_global_parameters, unshard
from megatron_prealign.platform import Mesh, initialize_distributed, initialize_model_parallel, select_platform
from megatron_prealign.training.invariants import check_replicas
from megatron_prealign.training.loop import Trainer
from megatron_prealign.training.optimizer import gather_parameters
from megatron_prealign.training.setup import build_trainer, plan_run

Values = Mapping[str, Mapping[str, Any]]
"""A configuration as a nested dictionary {section: {field: value}}."""


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
