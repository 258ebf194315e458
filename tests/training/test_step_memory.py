"""The estimate of a step's memory against the bytes that the trainer's own tensors have, on every rank."""

from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.config.counts import step_memory
from megatron_prealign.testing import run_distributed
from tests.workspace import MakeValues

TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
SHARDED = {"use_distributed_optimizer": True}
MUON = {"name": "muon"}
# Wide enough that the padding of gradient buffers is below 1 %.
LLAMA = {"hidden_size": 128, "ffn_hidden_size": 384, "vocab_size": 2048}
UNTIED = {**LLAMA, "untie_embeddings_and_output_weights": True}
NEOX = {**UNTIED, "architecture": "gpt_neox", "num_query_groups": None}
QWEN = {**LLAMA, "architecture": "qwen3", "num_query_groups": 1}


def _tensor_bytes(tensors: Any) -> int:
    """Return the bytes of distinct storages."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _fixed_bytes(values: Any) -> dict[str, tuple[int, int]]:
    """Return measured and estimated bytes of this rank's weights, gradients and optimizer states."""
    from megatron_prealign.platform.megatron.optimizer import torch_optimizers
    from megatron_prealign.platform.mesh import Mesh, gradient_buffers
    from megatron_prealign.testing.trainers import make_trainer

    trainer = make_trainer(values)
    trainer.train_step()
    weights = [parameter.data for chunk in trainer.chunks for parameter in chunk.parameters()]
    states = []
    for optimizer in torch_optimizers(trainer.optimizer):
        states += [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        if trainer.config.training.precision != "fp32":
            states += [parameter.data for group in optimizer.param_groups for parameter in group["params"]]
    measured = {
        "weights": _tensor_bytes(weights),
        "gradients": _tensor_bytes(gradient_buffers(trainer.chunks)),
        "optimizer": _tensor_bytes(states),
    }
    estimated = step_memory(trainer.config, torch.distributed.get_world_size())[Mesh.current().pipeline.rank]
    return {name: (size, getattr(estimated, name)) for name, size in measured.items()}


@pytest.mark.parametrize(
    ("world_size", "parallel", "model", "precision", "optimizer"),
    [
        (1, {}, LLAMA, "fp32", {}),
        (1, {}, NEOX, "bf16", {}),
        (1, SHARDED, QWEN, "fp32", {}),
        (2, {}, UNTIED, "bf16", {}),
        (2, SHARDED, LLAMA, "fp32", {}),
        (2, SHARDED, UNTIED, "bf16", {}),
        (2, TP2, NEOX, "fp32", {}),
        (2, {**TP2, "sequence_parallel": True}, QWEN, "bf16", {}),
        (2, PP2, LLAMA, "fp32", {}),
        (2, PP2, UNTIED, "bf16", {}),
        (2, {**PP2, "virtual_pipeline_model_parallel_size": 2}, NEOX, "fp32", {}),
        (4, {**PP2, **SHARDED}, UNTIED, "bf16", {}),
        (4, {**TP2, **SHARDED}, LLAMA, "fp32", {}),
        (2, {"context_parallel_size": 2, **SHARDED}, UNTIED, "fp32", {}),
        (1, {}, NEOX, "bf16", MUON),
        (2, {**TP2, "sequence_parallel": True}, QWEN, "fp32", MUON),
        (2, PP2, LLAMA, "bf16", MUON),
    ],
)
def test_weights_gradients_and_optimizer_are_exact(
    world_size: int,
    parallel: dict[str, Any],
    model: dict[str, Any],
    precision: str,
    optimizer: dict[str, Any],
    make_values: MakeValues,
    tmp_path: Path,
) -> None:
    training = {"precision": precision}
    values = make_values(
        "pretrain", tmp_path / "run", parallel=parallel, model=model, training=training, optimizer=optimizer
    )
    for rank in run_distributed(_fixed_bytes, world_size, values):
        for name, (measured, estimated) in rank.items():
            assert estimated == pytest.approx(measured, rel=0.01), name


def _saved_bytes(values: Any) -> tuple[int, int]:
    """Return the bytes that autograd keeps of a microbatch, without weights, and the estimate."""
    from megatron_prealign.testing.trainers import make_trainer

    trainer = make_trainer(values)
    weights = {parameter.untyped_storage().data_ptr() for chunk in trainer.chunks for parameter in chunk.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that its address is not given again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.compute_gradients()
    estimated = step_memory(trainer.config, 1)[0]
    return _tensor_bytes(kept.values()), estimated.activations + estimated.logits


@pytest.mark.parametrize("model", [LLAMA, QWEN, {**LLAMA, "num_query_groups": 4}])
def test_activations_are_those_that_autograd_keeps(
    model: dict[str, Any], make_values: MakeValues, tmp_path: Path
) -> None:
    training = {"micro_batch_size": 4, "global_batch_size": 4}
    values = make_values("pretrain", tmp_path / "run", model=model, training=training)
    ((measured, estimated),) = run_distributed(_saved_bytes, 1, values)
    assert estimated == pytest.approx(measured, rel=0.1)


def _passes(values: Any) -> dict[str, int]:
    """Return how often attention and MLP of a layer run in a step of one microbatch."""
    from megatron_prealign.testing.trainers import make_trainer

    trainer = make_trainer(values)
    counts = {"self_attention": 0, "mlp": 0}
    for name, module in trainer.chunks[0].named_modules():
        if name.endswith(("layers.0.mlp", "layers.0.self_attention")):
            part = name.rpartition(".")[2]
            module.register_forward_hook(lambda *_, part=part: counts.update({part: counts[part] + 1}))
    trainer.compute_gradients()
    return counts


@pytest.mark.parametrize(("recompute", "attention", "mlp"), [("none", 1, 1), ("mlp", 1, 2), ("full", 2, 2)])
def test_what_is_recomputed_runs_again(
    recompute: str, attention: int, mlp: int, make_values: MakeValues, tmp_path: Path
) -> None:
    training = {"micro_batch_size": 4, "global_batch_size": 4, "recompute": recompute}
    values = make_values("pretrain", tmp_path / "run", model=LLAMA, training=training)
    (passes,) = run_distributed(_passes, 1, values)
    assert passes == {"self_attention": attention, "mlp": mlp}
