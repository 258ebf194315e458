"""Each invariant holds in a healthy step, and is missed when the smallest thing breaks it on one rank."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from megatron_prealign.training.invariants import (
    InvariantError,
    _digest,
    check_batches,
    check_gradients,
    check_replicas,
)
from tests.workspace import MakeValues


def _message(check: Callable[[Any], None], of: Any) -> str:
    try:
        check(of)
    except InvariantError as error:
        return str(error)
    return ""


def _break_each(values: Any, parameter: str, stray: int) -> dict[str, list[str]]:
    """Return what each check says of a healthy step and of a broken one, by what was broken on rank 1."""
    trainer = make_trainer(values)
    chunks, is_broken = trainer.chunks, torch.distributed.get_rank() == 1
    batches = trainer.stage.next_passes(trainer.state)[-1].microbatches
    trainer.compute_gradients()
    said = {
        "batches": [_message(check_batches, batches)],
        "gradients": [_message(check_gradients, chunks)],
        "replicas": [_message(check_replicas, chunks)],
    }
    if is_broken:
        batches[0]["sample"][0] = stray
        parameters = dict(chunks[0].named_parameters())
        name = next(name for name in parameters if name.endswith("layers.1.mlp.linear_fc2.weight"))
        parameters[name].main_grad.zero_()
        name = next(name for name in parameters if name.endswith(parameter))
        parameters[name].data.view(-1)[0] += 1e-7
    said["batches"].append(_message(check_batches, batches))
    said["gradients"].append(_message(check_gradients, chunks))
    said["replicas"].append(_message(check_replicas, chunks))
    return said


@pytest.mark.parametrize(
    ("axis", "parameter", "replicas", "batches"),
    [
        (
            "data",
            "word_embeddings.weight",
            "parameters differ between data-parallel ranks",
            "data-parallel ranks were given the same samples",
        ),
        (
            "tensor_model_parallel_size",
            "final_layernorm.weight",
            "parameters that tensor parallelism does not split differ between its ranks",
            "ranks that share a model were given different samples",
        ),
        (
            "pipeline_model_parallel_size",
            "output_layer.weight",
            "tied embeddings differ between the first and the last pipeline stage",
            "ranks that share a model were given different samples",
        ),
    ],
)
def test_what_breaks_on_one_rank_is_found(
    axis: str, parameter: str, replicas: str, batches: str, make_values: MakeValues, tmp_path: Path
) -> None:
    # The first of rank 0 where each rank has samples of its own, else one that nobody has.
    stray = 0 if axis == "data" else 99
    values = make_values("pretrain", tmp_path / "run", parallel={} if axis == "data" else {axis: 2})
    healthy, broken = run_distributed(_break_each, 2, values, parameter, stray)
    assert healthy["replicas"] == broken["replicas"] == ["", replicas]
    assert healthy["batches"] == broken["batches"] == ["", batches]
    assert healthy["gradients"] == ["", ""]
    assert broken["gradients"][0] == ""
    assert broken["gradients"][1].endswith("mlp.linear_fc2.weight has no gradient")


def _lose_the_embedding(values: Any) -> str:
    """Return what is said of gradients where the input embedding of rank 1 has none."""
    trainer = make_trainer(values)
    trainer.compute_gradients()
    if torch.distributed.get_rank() == 1:
        named = dict(trainer.chunks[0].named_parameters())
        named["module.embedding.word_embeddings.weight"].main_grad.zero_()
    return _message(check_gradients, trainer.chunks)


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [({}, "embedding.word_embeddings.weight has no gradient"), ({"tensor_model_parallel_size": 2}, "")],
    ids=["whole", "part"],
)
def test_only_a_part_of_the_vocabulary_may_be_without_a_token(
    parallel: dict[str, int], expected: str, make_values: MakeValues, tmp_path: Path
) -> None:
    model = {"untie_embeddings_and_output_weights": True}
    values = make_values("pretrain", tmp_path / "run", parallel=parallel, model=model)
    assert run_distributed(_lose_the_embedding, 2, values) == ["", expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_digest_tells_any_changed_bit_and_any_exchange(dtype: torch.dtype) -> None:
    drawn = torch.Generator().manual_seed(1)
    matrix, vector = torch.randn(16, 8, generator=drawn).to(dtype), torch.randn(16, generator=drawn).to(dtype)

    def digest(matrix: torch.Tensor, vector: torch.Tensor) -> int:
        return int(_digest([torch.nn.Parameter(matrix), torch.nn.Parameter(vector)]))

    expected = digest(matrix, vector)
    assert digest(matrix.clone(), vector.clone()) == expected
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for row in range(16):
        for column in range(8):
            for bit in range(8 * dtype.itemsize):
                changed = matrix.clone()
                changed.view(integer)[row, column] ^= torch.tensor(1, dtype=integer) << bit
                assert digest(changed, vector) != expected, (row, column, bit)
    for exchanged in (matrix.flip(0), matrix.flip(1), matrix[:, torch.randperm(8, generator=drawn)]):
        assert digest(exchanged.contiguous(), vector) != expected
    assert digest(matrix, vector.flip(0)) != expected
