"""Undisturbed runs, which every disturbed one must end like."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import NUM_STEPS, Records, Run, Values, read_records
from tests.workspace import MakeValues

LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2": {"use_distributed_optimizer": True},
    "tp2": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    "pp2": {"pipeline_model_parallel_size": 2},
}
STAGES = ("pretrain", "align_init")

MakeRun = Callable[[str, str, Path], Values]


@pytest.fixture(scope="session")
def make_run(make_values: MakeValues) -> MakeRun:
    """Return a function from (stage, layout, run folder) to a configuration with dropout, saved every other step."""

    def make(stage: str, layout: str, run_path: Path) -> Values:
        return make_values(
            stage,
            run_path,
            model={"hidden_dropout": 0.1, "attention_dropout": 0.1},
            parallel=LAYOUTS[layout],
            training={"train_steps": NUM_STEPS},
            schedule={"lr_warmup_steps": 2},
            checkpoint={"save_interval": 2},
            logging={"log_interval": 1, "tensorboard": False},
        )

    return make


@dataclass
class Undisturbed:
    """A run that nothing happened to."""

    path: Path
    records: Records
    seconds: float


@pytest.fixture(scope="session")
def undisturbed(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Undisturbed]:
    """Return a function from (stage, layout) to its undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    runs: dict[tuple[str, str], Undisturbed] = {}

    def get(stage: str, layout: str) -> Undisturbed:
        if (stage, layout) not in runs:
            start = time.monotonic()
            run = Run.start(make_run(stage, layout, folder / f"{stage}-{layout}"))
            assert run.wait() == [0, 0], run.log
            records = read_records(run.path)
            assert [step for step, _ in records] == list(range(1, NUM_STEPS + 1))
            runs[stage, layout] = Undisturbed(run.path, records, time.monotonic() - start)
        return runs[stage, layout]

    return get
