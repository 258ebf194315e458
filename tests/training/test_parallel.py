"""Every layout gives the loss and the gradients of the single process, for both stages (design: section 6).

Broken once to see these fail: the gather's backward without the sum over ranks; the local instead of the
global token count; freeing pipeline outputs while gloo still sends them. What both sides of the comparison
share (the tap's scale, the mask, a word as its own negative) is guarded by tests/alignment.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import run_all_steps
from tests.workspace import MakeValues

TOLERANCE = 1e-5
MODELS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"untie_embeddings_and_output_weights": True},
    "qwen2": {"architecture": "qwen2"},
    "qwen3": {"architecture": "qwen3", "kv_channels": 12, "untie_embeddings_and_output_weights": True},
}
Case = tuple[str, str]
CASES: list[Case] = [(stage, model) for stage in ("pretrain", "align_init") for model in ("tied", "untied")]
# Biases that are split, norms whose gradients are summed: what tensor parallelism alone can get wrong.
TENSOR_CASES: list[Case] = [("pretrain", "qwen2"), ("pretrain", "qwen3"), ("align_init", "qwen3")]
TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
LAYOUTS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "tp2": (2, TP2, {}),
    "tp2-sequence-parallel": (2, {**TP2, "sequence_parallel": True}, {}),
    "pp2": (2, PP2, {}),
    "pp2-interleaved": (2, {**PP2, "virtual_pipeline_model_parallel_size": 2}, {}),
    "pp2-recompute": (2, PP2, {"recompute": "full"}),
    "tp2-recompute": (2, TP2, {"recompute": "full"}),
    "tp2-selective-recompute": (2, {**TP2, "sequence_parallel": True}, {"recompute": "selective"}),
    "dp2": (2, {}, {}),
    "dp2-distributed-optimizer": (2, {"use_distributed_optimizer": True}, {}),
    "tp2-pp2": (4, {**TP2, **PP2}, {}),
    "tp2-pp2-sequence-parallel": (4, {**TP2, **PP2, "sequence_parallel": True}, {}),
    "tp2-dp2": (4, TP2, {}),
    "tp2-dp2-sequence-parallel": (4, {**TP2, "sequence_parallel": True}, {}),
    "pp2-dp2": (4, PP2, {}),
    "pp2-interleaved-dp2": (4, {**PP2, "virtual_pipeline_model_parallel_size": 2}, {}),
}


def _run(
    make_values: MakeValues, folder: Path, world_size: int, parallel: Any, training: Any, cases: list[Case]
) -> dict[Case, dict[str, Any]]:
    configurations = [
        make_values(stage, folder / f"{stage}-{model}", parallel=parallel, training=training, model=MODELS[model])
        for stage, model in cases
    ]
    results = run_distributed(run_all_steps, world_size, configurations, 2)
    return dict(zip(cases, results[0], strict=True))


@pytest.fixture(scope="module")
def single(make_values: MakeValues, tmp_path_factory: pytest.TempPathFactory) -> dict[Case, dict[str, Any]]:
    return _run(make_values, tmp_path_factory.mktemp("single"), 1, {}, {}, [*CASES, *TENSOR_CASES])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_equals_single_process(
    layout: str, single: dict[Case, dict[str, Any]], make_values: MakeValues, tmp_path: Path
) -> None:
    cases = [*CASES, *TENSOR_CASES] if "tp2" in layout else CASES
    for case, result in _run(make_values, tmp_path, *LAYOUTS[layout], cases).items():
        _assert_same_losses(case, single[case]["steps"], result["steps"])
        if "distributed-optimizer" not in layout:
            _assert_same_gradients(case, single[case]["gradients"], result["gradients"])


def _assert_same_losses(case: Any, expected: list[dict[str, Any]], result: list[dict[str, Any]]) -> None:
    for step, (wanted, got) in enumerate(zip(expected, result, strict=True)):
        assert wanted.keys() == got.keys()
        for name, value in wanted.items():
            # How much padding there is depends on how the words are dealt out.
            if name != "word_padding_ratio":
                assert got[name] == pytest.approx(value, rel=TOLERANCE), (case, step, name)


def _assert_same_gradients(case: Any, expected: dict[str, torch.Tensor], result: dict[str, torch.Tensor]) -> None:
    assert expected.keys() == result.keys()
    global_norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        error = (result[name] - gradient).norm()
        assert error <= TOLERANCE * max(gradient.norm(), 1e-3 * global_norm), (case, name, float(error))
