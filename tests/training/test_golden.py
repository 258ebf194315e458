"""Both stages follow the curves in golden/: to the bit where they were recorded, closely elsewhere.

A change that is meant to move them records them anew, and the difference is there to be reviewed:

    pytest tests/training/test_golden.py --record-golden
"""

import json
import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.platform.matrix_products import cpu_vendor
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import Values, run_all_steps
from tests.workspace import MakeValues

GOLDEN = Path(__file__).parent / "golden"
NUM_STEPS = 25
CURVES = ("lm_loss", "alignment_loss", "gradient_norm")
SCHEDULE = {"lr_decay_style": "cosine", "lr_warmup_steps": 5}
UNTIED = {"untie_embeddings_and_output_weights": True}
ELSEWHERE = 1e-4  # relative: other kernels round otherwise, and 25 steps carry it on


def _environment() -> dict[str, Any]:
    """Return what decides how this process rounds."""
    return {
        "torch": torch.__version__,
        "build": torch.__config__.show().splitlines(),
        # Libraries choose their kernels by the maker, too.
        "instruction_set": [platform.machine(), torch.backends.cpu.get_cpu_capability(), cpu_vendor()],
        "threads": torch.get_num_threads(),
    }


def _run(configurations: list[Values]) -> list[dict[str, Any]]:
    runs = run_all_steps(configurations, NUM_STEPS)
    curves = [{name: [step[name] for step in run["steps"] if name in step] for name in CURVES} for run in runs]
    return [{"environment": _environment(), "curves": {name: c for name, c in curve.items() if c}} for curve in curves]


def test_curves_are_the_recorded_ones(make_values: MakeValues, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    configurations = [
        make_values(stage, tmp_path / stage, model=UNTIED, schedule=SCHEDULE, training={"train_steps": NUM_STEPS})
        for stage in ("align_init", "pretrain")
    ]
    for values, result in zip(configurations, run_distributed(_run, 1, configurations)[0], strict=True):
        path = GOLDEN / f"{values['training']['stage']}.json"
        if request.config.getoption("--record-golden"):
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            continue
        golden = json.loads(path.read_text(encoding="utf-8"))
        assert golden["curves"].keys() == result["curves"].keys()
        is_recorded_here = golden["environment"] == result["environment"]
        for name, curve in golden["curves"].items():
            wanted = curve if is_recorded_here else pytest.approx(curve, rel=ELSEWHERE)
            assert result["curves"][name] == wanted, (path.name, name, "exact" if is_recorded_here else "approximate")
