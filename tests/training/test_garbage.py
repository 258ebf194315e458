"""Python's garbage collector runs after the same steps on all ranks, and steps leave it nothing large."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from tests.workspace import MakeValues


def _collections(values: Any) -> list[int]:
    """Return the steps after which collections ran while a run trained; -1 for one that Python chose."""
    trainer = make_trainer(values)
    steps: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        # An error in here would be lost. Python by itself begins with the youngest generation.
        if phase == "start":
            steps.append(trainer.state.step if info["generation"] == 2 else -1)

    gc.callbacks.append(note)
    trainer.train()
    gc.callbacks.remove(note)
    assert gc.isenabled()
    return steps


def test_ranks_collect_after_the_same_steps(make_values: MakeValues, tmp_path: Path) -> None:
    values = make_values("pretrain", tmp_path / "run", training={"train_steps": 5, "manual_gc_interval": 2})
    # Once before the first step, and after the last.
    assert run_distributed(_collections, 2, values) == [[0, 2, 4, 5]] * 2


def _left_tensors(values: Any) -> int:
    """Return how many tensors three steps leave in reference cycles."""
    trainer = make_trainer(values)
    trainer._record(trainer.train_step())
    gc.collect()
    gc.disable()
    for _ in range(3):
        trainer._record(trainer.train_step())
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    return sum(isinstance(found, torch.Tensor) for found in gc.garbage)


@pytest.mark.parametrize("stage", ["align_init", "pretrain"])
def test_steps_leave_no_tensors_to_the_collector(stage: str, make_values: MakeValues, tmp_path: Path) -> None:
    assert run_distributed(_left_tensors, 1, make_values(stage, tmp_path / "run")) == [0]
