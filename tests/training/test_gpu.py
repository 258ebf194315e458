"""Steps on GPUs: over nccl they equal those on the CPU, and fused layers and small numbers stay near them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.optional_packages import is_usable
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import run_all_steps
from tests.workspace import MakeValues

pytestmark = pytest.mark.gpu

STAGES = ("pretrain", "align_init")
UNTIED = {"untie_embeddings_and_output_weights": True}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "single": (1, {}),
    "dp2": (2, {}),
    "dp2-distributed-optimizer": (2, {"use_distributed_optimizer": True}),
    "tp2-sequence-parallel": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "pp2-interleaved": (2, {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}),
    "tp2-pp2-dp2": (8, {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}),
}
needs_engine = pytest.mark.skipif(not is_usable("transformer_engine"), reason="needs Transformer Engine")


def _run(
    make_values: MakeValues,
    folder: Path,
    implementation: str,
    size: int = 1,
    parallel: dict[str, Any] | None = None,
    **training: Any,
) -> list[list[dict[str, Any]]]:
    """Return the steps of each stage."""
    model = {**UNTIED, "transformer_impl": implementation}
    configurations = [
        make_values(stage, folder / stage, model=model, parallel=parallel or {}, training=training) for stage in STAGES
    ]
    return [result["steps"] for result in run_distributed(run_all_steps, size, configurations, 2)[0]]


@pytest.fixture(scope="module")
def on_cpu(make_values: MakeValues, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    return _run(make_values, tmp_path_factory.mktemp("cpu"), "local")


def _assert_near(expected: list[list[dict[str, Any]]], result: list[list[dict[str, Any]]], tolerance: float) -> None:
    for stage, wanted_steps, steps in zip(STAGES, expected, result, strict=True):
        for wanted, got in zip(wanted_steps, steps, strict=True):
            for name in ("lm_loss", "alignment_loss", "gradient_norm"):
                if name in wanted:
                    assert got[name] == pytest.approx(wanted[name], rel=tolerance), (stage, name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nccl_equals_the_cpu(layout: str, on_cpu: Any, make_values: MakeValues, tmp_path: Path) -> None:
    size, parallel = LAYOUTS[layout]
    if torch.cuda.device_count() < size:
        pytest.skip(f"needs {size} GPUs")
    training = {"device": "cuda", "global_batch_size": 4}
    _assert_near(on_cpu, _run(make_values, tmp_path, "local", size, parallel, **training), 1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("implementation", ["local", pytest.param("transformer_engine", marks=needs_engine)])
def test_half_precision_stays_near(
    implementation: str, precision: str, on_cpu: Any, make_values: MakeValues, tmp_path: Path
) -> None:
    result = _run(make_values, tmp_path, implementation, device="cuda", precision=precision)
    _assert_near(on_cpu, result, 2e-2)


@needs_engine
def test_fp8_stays_near(on_cpu: Any, make_values: MakeValues, tmp_path: Path) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a GPU with fp8: Ada, Hopper or newer")
    result = _run(make_values, tmp_path, "transformer_engine", device="cuda", precision="bf16", fp8="hybrid")
    _assert_near(on_cpu, result, 1e-1)
