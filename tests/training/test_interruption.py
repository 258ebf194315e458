"""Signals and the wall-clock limit: all ranks stop after the same step, save, and say so as scripts understand it."""

import json
import os
import signal
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
import yaml

import pretrain_prealign
from megatron_prealign.platform import initialize_distributed, select_platform
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from megatron_prealign.training.interruption import Interruption
from tests.launching import start, train_records, wait_until
from tests.workspace import MakeValues

EVERY_STEP = {"log_interval": 1}


def _train(values: Any, signal_at: int = 0) -> tuple[str, int]:
    trainer = make_trainer(values)
    take_step = trainer.train_step

    def step_and_signal() -> float:
        if torch.distributed.get_rank() == 1 and trainer.state.step == signal_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        return take_step()

    if signal_at:
        trainer.train_step = step_and_signal  # type: ignore[method-assign]
    return trainer.train(), trainer.state.step


def test_a_signal_to_one_rank_ends_all_after_the_same_step(make_values: MakeValues, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert run_distributed(_train, 2, make_values("pretrain", whole, logging=EVERY_STEP)) == [("", 6)] * 2
    values = make_values("pretrain", run, logging=EVERY_STEP)
    assert run_distributed(_train, 2, values, 2) == [("SIGUSR1", 3)] * 2
    assert (run / "checkpoints" / "latest").read_text() == "step_0000003\n"
    assert run_distributed(_train, 2, values) == [("", 6)] * 2
    assert train_records(run) == train_records(whole)


def _agree(signals: list[signal.Signals | None]) -> list[str]:
    initialize_distributed(select_platform("cpu"))
    interruption = Interruption(None)
    number = signals[torch.distributed.get_rank()]
    if number is not None:
        os.kill(os.getpid(), number)
    stops = interruption.agreed(torch.device("cpu"))
    assert stops is bool(interruption.cause)
    return [interruption.cause]


def test_ranks_with_different_causes_name_the_same_one(make_values: MakeValues) -> None:
    term, user = signal.SIGTERM, signal.SIGUSR1
    for signals, cause in (
        ([None, None, None], ""),
        ([None, term, None], "SIGTERM"),
        ([term, term, term], "SIGTERM"),
        ([term, user, term], "SIGUSR1"),
        ([user, user, user], "SIGUSR1"),
    ):
        assert run_distributed(_agree, 3, signals) == [[cause]] * 3


def test_a_stop_between_two_records_loses_no_losses(make_values: MakeValues, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_distributed(_train, 2, make_values("pretrain", whole, logging=EVERY_STEP))
    values = make_values("pretrain", run, logging={"log_interval": 4})
    assert run_distributed(_train, 2, values, 2) == [("SIGUSR1", 3)] * 2
    assert run_distributed(_train, 2, values) == [("", 6)] * 2
    single = {record["step"]: record["lm_loss"] for record in _losses(whole)}
    means = {record["step"]: record["lm_loss"] for record in _losses(run)}
    # Steps predict nearly as many positions each, so the mean over steps is nearly that of their means.
    for step, steps in {3: [1, 2, 3], 4: [4], 6: [5, 6]}.items():
        assert means.pop(step) == pytest.approx(mean(single[one] for one in steps), rel=1e-4)
    assert not means


def _losses(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == "train"]


def test_the_time_is_over_before_the_first_step(make_values: MakeValues, tmp_path: Path) -> None:
    values = make_values("pretrain", tmp_path / "run", training={"exit_duration_minutes": 1e-9})
    assert run_distributed(_train, 1, values) == [("training.exit_duration_minutes", 0)]
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_signal_before_the_first_step_is_not_lost(make_values: MakeValues, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "exit.json").write_text('{"exit_code": 75, "cause": "the last start"}')
    values = make_values("pretrain", run)
    process = start(values, tmp_path / "log", "--standalone", "--shutdown-timeout", "200")
    wait_until(lambda: not (run / "exit.json").exists(), process)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()
    assert json.loads((run / "exit.json").read_text()) == {"exit_code": 75, "cause": "SIGTERM"}
    assert not (run / "checkpoints").exists()


def test_sigterm_twice_to_every_process_during_a_save(make_values: MakeValues, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    # Enough steps that the run is not at its end before a save was seen.
    overrides: dict[str, Any] = {"logging": EVERY_STEP, "checkpoint": {"save_interval": 2}}
    overrides["training"] = {"train_steps": 60}
    run_distributed(_train, 1, make_values("pretrain", whole, **overrides))
    values = make_values("pretrain", run, **overrides)
    # A restart after a deliberate end would train on: SIGTERM and the note must keep torchrun from it.
    process = start(values, tmp_path / "first.log", "--standalone", "--max-restarts", "2")
    wait_until(lambda: list(run.glob("checkpoints/*.tmp")), process)
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 1
    assert "Stopped by SIGTERM; run the same command to resume (exit code 75)." in (tmp_path / "first.log").read_text()
    assert json.loads((run / "exit.json").read_text()) == {"exit_code": 75, "cause": "SIGTERM"}
    assert (run / "checkpoints" / "latest").exists() and not list(run.glob("checkpoints/*.tmp"))
    assert start(values, tmp_path / "second.log").wait() == 0
    assert json.loads((run / "exit.json").read_text()) == {"exit_code": 0, "cause": "done"}
    assert train_records(run) == train_records(whole)


def test_what_torchrun_starts_again_after_an_end_on_purpose_ends_at_once(
    make_values: MakeValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(make_values("pretrain", tmp_path / "run")))
    (tmp_path / "run").mkdir()
    note = tmp_path / "run" / "exit.json"
    note.write_text('{"exit_code": 75, "cause": "SIGTERM"}')
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert pretrain_prealign.main(["--config", str(tmp_path / "config.yaml")]) == 75
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["exit.json"]
