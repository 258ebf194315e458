"""Gradient buffers, the optimizer and the learning-rate schedule, all of megatron-core."""

import contextlib
import functools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as CoreOptimizerConfig
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.utils import get_model_config, unwrap_model

from megatron_prealign.config import Config
from megatron_prealign.config.alignment_validation import reads_items
from megatron_prealign.model.parameters import hidden_matrices
from megatron_prealign.model.transformer_config import PARAMS_DTYPE
from megatron_prealign.platform import Mesh
from megatron_prealign.platform.megatron.optimizer import allocate_moments, built_with
from megatron_prealign.training import norms, update_rules


def wrap_data_parallel(chunks: list[torch.nn.Module], config: Config) -> list[torch.nn.Module]:
    """Wrap model chunks in megatron-core's DistributedDataParallel; gradients accumulate and reduce in fp32."""
    overlap_grad_reduce, overlap_param_gather = overlaps(config, next(chunks[0].parameters()).device)
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=config.parallel.use_distributed_optimizer,
        overlap_grad_reduce=overlap_grad_reduce,
        overlap_param_gather=overlap_param_gather,
        # It would end one rank alone, before the reduction; guards.py makes all ranks skip the step instead.
        check_for_nan_in_grad=False,
        bucket_size=config.parallel.ddp_bucket_size,
    )
    wrapped = [
        DistributedDataParallel(get_model_config(chunk), ddp, chunk, disable_bucketing=index > 0)
        for index, chunk in enumerate(chunks)
    ]
    core = get_model_config(wrapped[0])
    core.finalize_model_grads_func = finalize_model_grads
    if overlap_grad_reduce:
        # Reduce after the last microbatch only.
        core.no_sync_func = wrapped[0].no_sync if len(wrapped) == 1 else [chunk.no_sync for chunk in wrapped]
    return wrapped


def overlaps(config: Config, device: torch.device) -> tuple[bool, bool]:
    """Return whether to reduce gradients during the backward pass, and to gather parameters during the forward pass."""
    parallel = config.parallel
    has_replicas = Mesh.current().replicas.size > 1
    # The overlapped reduction waits for the gradient of every parameter.
    has_all_gradients = config.training.stage == "pretrain" or config.alignment.lm_weight > 0
    grads = parallel.overlap_grad_reduce
    if grads is None:
        grads = device.type == "cuda" and has_replicas and has_all_gradients
    params = parallel.overlap_param_gather
    if params is None:
        # Vectors of items read the output layer's rows before that layer runs.
        params = grads and parallel.use_distributed_optimizer and not reads_items(config)
    return grads, params


def gather_parameters(chunks: list[torch.nn.Module]) -> None:
    """Gather parameters that only the next forward pass would gather; collective."""
    for chunk in chunks:
        if chunk.ddp_config.overlap_param_gather:  # type: ignore[union-attr]
            chunk.start_param_sync(force_sync=True)  # type: ignore[operator]


def build_optimizer(chunks: list[torch.nn.Module], config: Config) -> MegatronOptimizer:
    """Build the optimizer of the wrapped chunks; norms and biases have no weight decay."""
    device = next(chunks[0].parameters()).device
    update_rules.register(device)
    norms.register(device)
    options = config.optimizer
    core = CoreOptimizerConfig(
        optimizer="adam",
        lr=options.lr,
        min_lr=options.min_lr,
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        adam_eps=options.adam_eps,
        # megatron-core computes the norm only if there is a bound.
        clip_grad=options.clip_grad or math.inf,
        bf16=config.training.precision == "bf16",
        fp16=config.training.precision == "fp16",
        initial_loss_scale=options.initial_loss_scale,
        loss_scale_window=options.loss_scale_window,
        params_dtype=PARAMS_DTYPE[config.training.precision],
        use_distributed_optimizer=config.parallel.use_distributed_optimizer,
        overlap_param_gather=overlaps(config, device)[1],
    )
    with built_with(_muon(chunks, config)) if options.name == "muon" else contextlib.nullcontext():
        optimizer = get_megatron_optimizer(core, chunks, use_gloo_process_groups=False)
    allocate_moments(optimizer)
    get_model_config(chunks[0]).grad_scale_func = optimizer.scale_loss
    return optimizer


def _muon(chunks: list[torch.nn.Module], config: Config) -> Callable[..., update_rules.Muon]:
    """Return Muon for these chunks, as a function of the groups of their parameters and the options of AdamW."""
    mesh = Mesh.current()
    is_exact = config.training.precision == "fp32" or next(chunks[0].parameters()).device.type == "cpu"
    return functools.partial(
        update_rules.Muon,
        matrices=[matrix for chunk in unwrap_model(chunks) for matrix in hidden_matrices(chunk)],
        momentum=config.optimizer.muon_momentum,
        num_iterations=config.optimizer.muon_ns_steps,
        dtype=torch.float32 if is_exact else torch.bfloat16,
        tensor=mesh.tensor,
        replicas=mesh.replicas,
    )


def build_schedule(optimizer: MegatronOptimizer, config: Config) -> OptimizerParamScheduler:
    """Build the learning-rate schedule, counted in optimizer steps.

    The rates are those of the configuration, whatever a loaded optimizer had.
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
        lr_wsd_decay_style=schedule.lr_wsd_decay_style,
        start_wd=options.weight_decay,
        end_wd=options.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
    )
