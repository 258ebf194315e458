"""Variables for GPUs are set before torch is imported, where they are needed, and never over the user's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_prealign.config import Config, ParallelConfig, TrainingConfig
from megatron_prealign.gpu_environment import set_gpu_environment

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": "/home"})


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({}, None),
        ({"pipeline_model_parallel_size": 2}, None),
        ({"tensor_model_parallel_size": 2}, "1"),
        ({"context_parallel_size": 2}, "1"),
    ],
)
def test_one_queue_where_layers_communicate(layout: dict[str, int], expected: str | None) -> None:
    set_gpu_environment(Config(parallel=ParallelConfig(**layout)))
    assert os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS") == expected


def test_values_of_the_user_stay() -> None:
    own = {
        "CUDA_DEVICE_MAX_CONNECTIONS": "32",
        "PYTORCH_CUDA_ALLOC_CONF": "backend:native",
        "TORCH_NCCL_TRACE_BUFFER_SIZE": "0",
    }
    os.environ.update(own)
    set_gpu_environment(Config(parallel=ParallelConfig(tensor_model_parallel_size=2)))
    assert {name: os.environ[name] for name in own} == own
    os.environ.clear()
    os.environ["PYTORCH_ALLOC_CONF"] = "backend:native"
    set_gpu_environment(Config())
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ


def test_recordings_go_to_the_run() -> None:
    set_gpu_environment(Config(training=TrainingConfig(run_path="runs/one")))
    assert os.environ["TORCH_NCCL_DEBUG_INFO_TEMP_FILE"] == f"{os.getcwd()}/runs/one/nccl_trace_rank_"


def test_it_comes_before_torch() -> None:
    code = """
import sys
import pretrain_prealign
from megatron_prealign.config import Config
from megatron_prealign.ranks import read_ranks
def look(config):
    sys.exit("torch" in sys.modules)
pretrain_prealign.set_gpu_environment = look
pretrain_prealign.train(Config(), read_ranks(), dry_run=True)
"""
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
