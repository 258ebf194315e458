"""Steps that must not reach the weights are skipped on all ranks alike, and the data goes on behind them."""

import json
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from megatron_prealign.checkpoint.folder import all_checkpoints
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from megatron_prealign.training.guards import DivergenceError
from megatron_prealign.training.invariants import check_replicas
from tests.workspace import MakeValues


def _weights(trainer: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for chunk in trainer.chunks for parameter in chunk.parameters()]


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _train_with_nan(values: Any, steps: Collection[int]) -> tuple[list[Any], dict[str, Any]]:
    """Train; in some steps the loss is NaN, on the last rank only. Return what each step did, and the state."""
    trainer = make_trainer(values)
    draw = trainer.stage.next_passes

    def draw_and_spoil(state: Any) -> Any:
        passes = draw(state)
        if state.consumed_samples // 4 in steps and torch.distributed.get_rank() == 1:
            passes[-1].microbatches[0]["loss_mask"] *= float("nan")
        return passes

    trainer.stage.next_passes = draw_and_spoil  # type: ignore[method-assign]
    done: list[Any] = []
    for _ in range(4):
        before = _weights(trainer)
        try:
            norm = trainer.train_step()
        except DivergenceError as error:
            done.append((_same(before, _weights(trainer)), str(error)))
            break
        losses = trainer.stage.take_metrics()
        done.append((_same(before, _weights(trainer)), norm is None, "lm_loss" in losses))
    check_replicas(trainer.chunks)
    return done, trainer.state.to_dict()


def test_a_step_with_nan_on_one_data_parallel_rank_is_skipped_by_all(make_values: MakeValues, tmp_path: Path) -> None:
    run, applied, skipped = tmp_path / "run", (False, False, True), (True, True, False)
    values = make_values("pretrain", run, guards={"max_skipped_steps": 2})
    for done, state in run_distributed(_train_with_nan, 2, values, (2,)):
        assert done == [applied, skipped, applied, applied]
        assert (state["step"], state["consumed_samples"], state["skipped_steps"]) == (4, 16, 1)
    (line,) = (run / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "step": 2,
        "cause": "the loss or a gradient is NaN or infinite",
        "loss": "nan",
        "samples": [4, 5, 6, 7],
        "word_microbatches": [],
    }


def test_steps_skipped_in_a_row_end_the_run_on_all_ranks(make_values: MakeValues, tmp_path: Path) -> None:
    # Two that are not in a row are none too many.
    values = make_values("pretrain", tmp_path / "run", guards={"max_skipped_steps": 2})
    for done, state in run_distributed(_train_with_nan, 2, values, (1, 3, 4)):
        assert [step[0] for step in done] == [True, False, True, True]
        assert "step 4 was skipped because the loss or a gradient is NaN or infinite, 2 in a row: lower" in done[-1][1]
        assert state["skipped_steps"] == 3
    assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 3


def _train_with_infinite_gradient(values: Any) -> tuple[bool, str]:
    trainer = make_trainer(values)
    compute = trainer.compute_gradients

    def compute_and_spoil() -> None:
        compute()
        if torch.distributed.get_rank() == 1:
            trainer.chunks[0].buffers[0].grad_data[5] = float("inf")

    trainer.compute_gradients = compute_and_spoil  # type: ignore[method-assign]
    before = _weights(trainer)
    skipped = trainer.train_step() is None
    return skipped and _same(before, _weights(trainer)), trainer.state.to_dict()["skipped_steps"]


def test_a_gradient_that_only_one_tensor_parallel_rank_sees(make_values: MakeValues, tmp_path: Path) -> None:
    values = make_values("pretrain", tmp_path / "run", parallel={"tensor_model_parallel_size": 2})
    assert run_distributed(_train_with_infinite_gradient, 2, values) == [(True, 1)] * 2


def _poison_layer(values: Any) -> str:
    trainer = make_trainer(values)
    for layer in trainer.chunks[0].module.decoder.layers:
        if layer.layer_number == 3:
            layer.input_layernorm.weight.data[0] = float("nan")
    try:
        trainer.train_step()
    except DivergenceError as error:
        return str(error)
    return "no error"


def test_the_tap_where_hidden_states_turn_nan_is_named(make_values: MakeValues, tmp_path: Path) -> None:
    parallel, guards = {"pipeline_model_parallel_size": 2}, {"max_skipped_steps": 1}
    values = make_values("align_init", tmp_path / "run", parallel=parallel, guards=guards)
    messages = run_distributed(_poison_layer, 2, values)
    # Only the second stage has the layer; the first learns of it.
    assert messages[0] == messages[1]
    assert "; the alignment loss is not finite at the taps layer_3, layer_4: from layer_3 on, hidden" in messages[0]
    assert json.loads((tmp_path / "run" / "skipped.jsonl").read_text())["word_microbatches"] == [0, 1]


# So narrow that ordinary noise is a spike.
SPIKES = {"spike_window": 2, "spike_deviations": 0.01, "max_skipped_steps": 100, "max_rewinds": 2}


def _train_through_spikes(values: Any) -> tuple[list[dict[str, Any]], str]:
    """Train and save after step 4; return the loss of each step and what became of it, and the error at the end."""
    trainer = make_trainer(values)
    saved: list[torch.Tensor] = []
    losses: list[float] = []
    steps: list[dict[str, Any]] = []
    judge = trainer.guard.judge

    def note_and_judge(chunks: Any, optimizer: Any, stage: Any, *states: Any) -> Any:
        ((total, count),) = stage.step_sums().tolist()
        losses.append(total / count)
        return judge(chunks, optimizer, stage, *states)

    trainer.guard.judge = note_and_judge  # type: ignore[method-assign]
    try:
        while trainer.state.step < 14:
            before = _weights(trainer)
            applied = trainer.train_step() is not None
            after, group = _weights(trainer), trainer.optimizer.param_groups[0]
            kept, as_saved = _same(before, after), bool(saved) and _same(saved, after)
            steps.append({"applied": applied, "kept": kept, "as_saved": as_saved, "rate": group["lr"]})
            steps[-1] |= {"loss": losses[-1], "updates": group["step"]}
            if trainer.state.step == 4:
                trainer.save()
                saved = after
    except DivergenceError as error:
        assert _same(before, _weights(trainer))
        return [*steps, {"applied": False, "loss": losses[-1]}], str(error)
    return steps, ""


def _is_spike_by_hand(steps: list[dict[str, Any]]) -> list[bool]:
    recent: list[float] = []
    spikes = []
    for loss in (step["loss"] for step in steps):
        spikes.append(len(recent) == 2 and loss > statistics.fmean(recent) + 0.01 * statistics.pstdev(recent))
        recent = recent if spikes[-1] else [*recent, loss][-2:]
    return spikes


def test_a_loss_spike_is_skipped_or_the_weights_go_back(make_values: MakeValues, tmp_path: Path) -> None:
    runs = {}
    for action in ("ignore", "skip", "rewind"):
        values = make_values(
            "pretrain", tmp_path / action, training={"train_steps": 20}, guards={"loss_spike": action, **SPIKES}
        )
        runs[action] = run_distributed(_train_through_spikes, 1, values)[0]
    rates = [step["rate"] for step in runs["ignore"][0]]
    assert all(step["applied"] for step in runs["ignore"][0])

    steps, error = runs["skip"]
    assert not error
    assert [not step["applied"] for step in steps] == _is_spike_by_hand(steps)
    assert [not step["applied"] for step in steps] == [step["kept"] for step in steps]
    assert [step["rate"] for step in steps] == rates
    assert 2 < sum(step["applied"] for step in steps) < len(steps) - 2

    steps, error = runs["rewind"]
    assert [not step["applied"] for step in steps] == _is_spike_by_hand(steps)
    # Before there is a checkpoint a step is skipped; after two rewinds the next spike ends the run.
    last = len(steps) - 1
    rewinds = [step for step in steps[4:last] if not step["applied"]]
    assert [step["as_saved"] for step in rewinds] == [True, True]
    assert {step["updates"] for step in rewinds} == {steps[3]["updates"]}
    assert all(step["kept"] for step in steps[:4] if not step["applied"])
    assert [step["rate"] for step in steps[:last]] == rates[:last]
    assert f"step {last + 1} was skipped because the loss spikes, above " in error
    assert ", after 2 rewinds: raise guards.spike_deviations, lower optimizer.lr" in error


def _recent_losses(configurations: list[Any]) -> list[list[float]]:
    """Return the losses that spikes are judged by at the end of runs that go on one from the other."""
    found = []
    for values in configurations:
        trainer = make_trainer(values)
        trainer.train()
        found.append(trainer.state.recent_losses)
    return found


def test_a_guard_that_was_off_forgets_the_losses_before(make_values: MakeValues, tmp_path: Path) -> None:
    guards = ({"loss_spike": "skip", "spike_window": 8}, {}, {"loss_spike": "skip", "spike_window": 8})
    values = [
        make_values("pretrain", tmp_path / "run", training={"train_steps": steps}, guards=options)
        for steps, options in zip((2, 3, 5), guards, strict=True)
    ]
    on, off, again = run_distributed(_recent_losses, 1, values)[0]
    assert (len(on), off, len(again)) == (2, [], 2)


def test_steps_that_are_taken_again_are_listed_once(make_values: MakeValues, tmp_path: Path) -> None:
    values = make_values("pretrain", tmp_path / "run")
    listed: dict[str, list[int]] = {}
    for skipped in ((2,), (3,)):  # nothing is saved, so the second run begins anew
        run_distributed(_train_with_nan, 2, values, skipped)
        listed = {
            path.name: [json.loads(line)["step"] for line in path.read_text().splitlines()]
            for path in (tmp_path / "run").glob("skipped.*")
        }
    assert listed == {"skipped.jsonl": [3], "skipped.discarded.jsonl": [2]}


def _save_poisoned(values: Any) -> tuple[str, int]:
    """Return what a save of weights with NaN on one tensor-parallel rank says, and the checkpoints after it."""
    trainer = make_trainer(values)
    trainer.train_step()
    trainer.save()
    trainer.train_step()
    if torch.distributed.get_rank() == 1:
        next(trainer.chunks[0].parameters()).data.view(-1)[3] = float("nan")
    try:
        trainer.save()
    except DivergenceError as error:
        return str(error), len(all_checkpoints(trainer.config.training.run_path))
    return "saved", 0


def test_weights_with_nan_are_not_saved(make_values: MakeValues, tmp_path: Path) -> None:
    values = make_values("pretrain", tmp_path / "run", parallel={"tensor_model_parallel_size": 2})
    for said, num_checkpoints in run_distributed(_save_poisoned, 2, values):
        assert said.startswith("the weights hold NaN or infinity after step 2, so they are not saved")
        assert num_checkpoints == 1
