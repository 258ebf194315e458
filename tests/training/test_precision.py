"""fp16 scales its loss: an overflow leaves the weights alone, and a run goes on with the scale it had."""

from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer, train_and_save_all
from megatron_prealign.training.guards import DivergenceError
from tests.workspace import MakeValues

# CPUs compute it slowly.
SMALL = {"model": {"num_layers": 2}, "data": {"seq_length": 16}}
FP16 = {"precision": "fp16", "global_batch_size": 1}


def _overflow(values: Any, num_steps: int) -> tuple[list[tuple[float, float, bool]], int]:
    """Return of each step up to the first good one the norm, the scale after it and whether a weight moved; skipped."""
    trainer = make_trainer(values)
    trainer.schedule.step(1)
    steps = []
    for _ in range(num_steps):
        before = [parameter.detach().clone() for parameter in trainer.chunks[0].parameters()]
        norm = trainer.train_step()
        moved = [not torch.equal(a, b) for a, b in zip(before, trainer.chunks[0].parameters(), strict=True)]
        steps.append((norm, float(trainer.optimizer.get_loss_scale()), any(moved)))
        if norm < float("inf"):
            break
    return steps, trainer.state.skipped_steps


def test_an_overflow_leaves_the_weights_and_lowers_the_scale(make_values: MakeValues, tmp_path: Path) -> None:
    # 2^21 times the mean over 16 positions passes 65,504 at the logits of the labels; small word vectors have gradients
    # that need a scale some powers of two lower still.
    optimizer = {"initial_loss_scale": 2.0**21}
    for stage in ("pretrain", "align_init"):
        training = {**FP16, "train_steps": 20}
        values = make_values(stage, tmp_path / stage, optimizer=optimizer, training=training, **SMALL)
        steps, num_skipped = run_distributed(_overflow, 1, values, 16)[0]
        overflown = [norm == float("inf") for norm, _, _ in steps]
        assert overflown[0], steps
        assert not overflown[-1], steps
        assert [moved for _, _, moved in steps] == [not is_over for is_over in overflown]
        # megatron-core bears one overflow, then halves at each.
        num_overflown = sum(overflown)
        assert steps[-1][1] == 2.0 ** (21 - num_overflown + 1)
        assert num_skipped == num_overflown


def _stop(values: Any) -> tuple[list[float], str]:
    """Return the scale before each step whose gradients are infinite, and how the run ends."""
    trainer = make_trainer(values)
    compute = trainer.compute_gradients

    def compute_and_spoil() -> None:
        compute()
        trainer.chunks[0].buffers[0].grad_data[5] = float("inf")

    trainer.compute_gradients = compute_and_spoil  # type: ignore[method-assign]
    scales = []
    try:
        while len(scales) < 12:
            scales.append(float(trainer.optimizer.get_loss_scale()))
            trainer.train_step()
    except DivergenceError as error:
        return scales, str(error)
    return scales, "goes on"


def test_overflows_that_no_scale_cures_end_the_run(make_values: MakeValues, tmp_path: Path) -> None:
    training, guards = {**FP16, "train_steps": 20}, {"max_skipped_steps": 3}
    values = make_values(
        "pretrain", tmp_path / "run", optimizer={"initial_loss_scale": 4.0}, training=training, guards=guards, **SMALL
    )
    scales, end = run_distributed(_stop, 1, values)[0]
    # megatron-core bears one overflow, then halves at each.
    assert scales == [4.0, 4.0, 2.0, 1.0, 1.0, 1.0]
    assert "was skipped because the loss or a gradient is NaN or infinite, 3 in a row" in end


def _scale(values: Any) -> float:
    return float(make_trainer(values).optimizer.get_loss_scale())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_run_goes_on_with_its_scale(name: str, make_values: MakeValues, tmp_path: Path) -> None:
    optimizer = {"name": name, "initial_loss_scale": 64.0, "loss_scale_window": 2}
    records = {}
    for run, ends in (("whole", [4]), ("parts", [3, 4])):
        records[run] = []
        for end in ends:
            values = make_values(
                "pretrain",
                tmp_path / run,
                optimizer=optimizer,
                training={**FP16, "train_steps": end},
                schedule={"lr_decay_steps": 4},
                **SMALL,
            )
            records[run] += run_distributed(train_and_save_all, 1, [values])[0][0]
    assert records["parts"] == records["whole"]
    assert run_distributed(_scale, 1, values)[0] == 64.0 * 2**2


def test_a_run_whose_steps_were_all_skipped_goes_on(make_values: MakeValues, tmp_path: Path) -> None:
    optimizer = {"initial_loss_scale": 2.0**21}
    parallel = {"use_distributed_optimizer": True}
    for end in (1, 2):
        training = {**FP16, "train_steps": end}
        values = make_values(
            "pretrain", tmp_path / "run", optimizer=optimizer, training=training, parallel=parallel, **SMALL
        )
        run_distributed(train_and_save_all, 1, [values])
    # Two overflows: megatron-core bears one, then halves.
    assert run_distributed(_scale, 1, values)[0] == 2.0**20
