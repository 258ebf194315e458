"""Models and optimizers of either kind in one process: our own, and those of Transformer Engine over its stub."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import torch
from megatron.core import optimizer as core_optimizer
from megatron.core.optimizer import MegatronOptimizer, distrib_optimizer
from megatron.core.utils import unwrap_model
from transformer_engine.pytorch.optimizers import FusedAdam

from megatron_prealign.checkpoint.tensors import local_name
from megatron_prealign.config import CheckpointConfig, Config, DataConfig, ModelConfig, ParallelConfig, TrainingConfig
from megatron_prealign.model import build
from megatron_prealign.model.layer_spec import build_block_spec
from megatron_prealign.model.parameters import named_global_parameters
from megatron_prealign.model.transformer_config import build_transformer_config
from megatron_prealign.training import update_rules
from megatron_prealign.training.optimizer import build_optimizer, wrap_data_parallel

CPU = torch.device("cpu")
Model = tuple[list[torch.nn.Module], MegatronOptimizer]


def make_config(
    architecture: str, untied: bool, run_path: str, precision: str = "fp32", sharded: bool = False
) -> Config:
    """Return the configuration of a small model."""
    model = ModelConfig(
        architecture=architecture,
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=None if architecture == "gpt_neox" else 2,
        ffn_hidden_size=48,
        max_position_embeddings=64,
        vocab_size=701,
        make_vocab_size_divisible_by=16,
        untie_embeddings_and_output_weights=untied,
    )
    return Config(
        model=model,
        data=DataConfig(seq_length=32),
        parallel=ParallelConfig(use_distributed_optimizer=sharded),
        checkpoint=CheckpointConfig(keep_last=9),
        training=TrainingConfig(run_path=run_path, device="cpu", precision=precision),
    )


def build_chunks(config: Config, implementation: str) -> list[torch.nn.Module]:
    """Build a model of local layers or of Transformer Engine's, whose weights are drawn by their names."""
    if implementation == "local":
        return build.build_model_chunks(config, CPU)

    def transformer_config(config: Config, _: str) -> object:
        return replace(build_transformer_config(config, "cuda"), use_cpu_initialization=True)

    with (
        mock.patch.object(build, "build_transformer_config", transformer_config),
        mock.patch.object(build, "build_block_spec", lambda m, t, _, stage: build_block_spec(m, t, "cuda", stage)),
        mock.patch.object(torch.cuda, "is_available", lambda: True),
    ):
        return build.build_model_chunks(config, CPU)


@contextlib.contextmanager
def _adam(implementation: str) -> Iterator[None]:
    """Let megatron-core use our AdamW or Transformer Engine's."""
    if implementation == "local":
        yield
        return
    with (
        mock.patch.object(update_rules, "register", lambda _: None),
        mock.patch.multiple(core_optimizer, Adam=FusedAdam, USING_PYTORCH_OPTIMIZER=False),
        mock.patch.multiple(distrib_optimizer, Adam=FusedAdam, HAVE_APEX_OR_TE=True, USING_APEX_OPTIMIZER=False),
    ):
        yield


def build_model(config: Config, implementation: str, seed: int) -> Model:
    """Build model and optimizer; another seed gives other weights everywhere, biases and norms among them."""
    with _adam(implementation):
        chunks = build_chunks(replace(config, training=replace(config.training, seed=seed)), implementation)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in chunks[0].parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        chunks = wrap_data_parallel(chunks, config)
        return chunks, build_optimizer(chunks, config)


def take_steps(model: Model, num_steps: int, seed: int = 5) -> None:
    """Step with gradients that are drawn by the names of the parameters, which both kinds of layers share."""
    chunks, optimizer = model
    for step in range(num_steps):
        for name, parameter in weights(chunks).items():
            generator = torch.Generator().manual_seed(seed + step + sum(name.encode()))
            parameter.main_grad.copy_(torch.randn(parameter.shape, generator=generator))  # type: ignore[attr-defined]
        optimizer.prepare_grads()
        optimizer.step_with_ready_grads()


def weights(chunks: list[torch.nn.Module]) -> dict[str, torch.Tensor]:
    """Return all parameters under the names of the local layer spec."""
    return {
        local_name(name): weight for chunk in unwrap_model(chunks) for name, weight in named_global_parameters(chunk)
    }


def groups(optimizer: MegatronOptimizer) -> list[dict[str, object]]:
    """Return the parameter groups without their parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
