"""Saved at any layout, a run goes on at any other as if it had never stopped; within a layout bit for bit."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.testing import run_distributed
from tests.workspace import MakeValues

Losses = list[float]
Layout = tuple[int, int, int]
"""Tensor-, pipeline- and data-parallel size."""

LAYOUTS: tuple[Layout, ...] = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (2, 1, 2), (1, 2, 2))
NUM_STEPS_BEFORE = 3
TIMEOUT_SECONDS = 1000.0


def _losses(trainer: Any, num_steps: int) -> Losses:
    losses = []
    for _ in range(num_steps):
        trainer.train_step()
        losses.append(trainer.stage.take_metrics()["lm_loss"])
    return losses


def _trainers(configurations: Sequence[Any]) -> Iterator[Any]:
    """Build a trainer after the other, each at its own layout, in the same processes."""
    from megatron.core import parallel_state

    from megatron_prealign.testing.trainers import make_trainer

    current = None
    for values in configurations:
        if values["parallel"] != current:  # the threads of dropped groups stay: drop few
            parallel_state.destroy_model_parallel()
            current = values["parallel"]
        yield make_trainer(values)


def _run_whole(configurations: Sequence[Any], num_steps: int) -> list[Losses]:
    """Train runs that are saved on their way, and return the losses after that."""
    found = []
    for trainer in _trainers(configurations):
        _losses(trainer, NUM_STEPS_BEFORE)
        trainer.save()
        found.append(_losses(trainer, num_steps))
    return found


def _continue(configurations: Sequence[Any], num_steps: int) -> list[Losses]:
    """Return the losses of continued runs."""
    found = []
    for trainer in _trainers(configurations):
        assert trainer.state.step == NUM_STEPS_BEFORE
        found.append(_losses(trainer, num_steps))
    return found


def _check_matrix(
    layouts: Sequence[Layout],
    num_steps: int,
    stage: str,
    sharded: bool,
    make_values: MakeValues,
    root: Path,
    optimizer: str = "adamw",
) -> None:
    def values(saved_at: Layout, layout: Layout) -> Any:
        tensor, pipeline, _ = layout
        parallel = {
            "tensor_model_parallel_size": tensor,
            "pipeline_model_parallel_size": pipeline,
            "use_distributed_optimizer": sharded,
        }
        training = {"train_steps": NUM_STEPS_BEFORE + num_steps}
        sections = {"parallel": parallel, "training": training, "optimizer": {"name": optimizer}}
        return make_values(stage, root / "x".join(map(str, saved_at)), **sections)

    groups: dict[int, list[Layout]] = {}
    for layout in layouts:
        groups.setdefault(layout[0] * layout[1] * layout[2], []).append(layout)
    whole: dict[Layout, Losses] = {}
    for world_size, group in groups.items():
        own = [values(layout, layout) for layout in group]
        found = run_distributed(_run_whole, world_size, own, num_steps, timeout_seconds=TIMEOUT_SECONDS)[0]
        whole.update(zip(group, found, strict=True))
    for world_size, group in groups.items():
        pairs = [(saved_at, layout) for layout in group for saved_at in layouts]
        every = [values(*pair) for pair in pairs]
        found = run_distributed(_continue, world_size, every, num_steps, timeout_seconds=TIMEOUT_SECONDS)[0]
        for (saved_at, layout), losses in zip(pairs, found, strict=True):
            tolerance = 0.0 if saved_at == layout else 1e-5
            for step, (loss, expected) in enumerate(zip(losses, whole[layout], strict=True)):
                assert loss == pytest.approx(expected, rel=tolerance, abs=0), (saved_at, layout, step)


def test_from_one_layout_to_another(make_values: MakeValues, tmp_path: Path) -> None:
    _check_matrix([(1, 2, 1), (2, 1, 2)], 4, "pretrain", True, make_values, tmp_path)


def test_from_one_layout_to_another_with_muon(make_values: MakeValues, tmp_path: Path) -> None:
    _check_matrix([(1, 1, 1), (2, 1, 1), (1, 2, 1)], 4, "pretrain", False, make_values, tmp_path, "muon")


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("stage", "sharded"),
    [("pretrain", False), ("pretrain", True), ("align_init", True)],
    ids=["pretrain", "pretrain-distributed-optimizer", "align-init-distributed-optimizer"],
)
def test_from_every_layout_to_every_other(stage: str, sharded: bool, make_values: MakeValues, tmp_path: Path) -> None:
    _check_matrix(LAYOUTS, 20, stage, sharded, make_values, tmp_path)
