"""A rank that dies, fails or hangs ends the others in bounded time, and the cause stands on top."""

import signal
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from tests.launching import find_rank, start, train_records, wait_until
from tests.workspace import MakeValues

TWO_RANKS = ("--standalone", "--nproc-per-node", "2")
OVERRIDES: dict[str, Any] = {
    "training": {"train_steps": 12},
    "logging": {"log_interval": 1},
    "checkpoint": {"save_interval": 2},
}


def _train(values: Any) -> None:
    make_trainer(values).train()


def test_torchrun_goes_on_after_a_rank_was_killed(make_values: MakeValues, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_distributed(_train, 2, make_values("pretrain", whole, **OVERRIDES))
    process = start(make_values("pretrain", run, **OVERRIDES), tmp_path / "log", *TWO_RANKS, "--max-restarts", "1")
    wait_until((run / "checkpoints" / "step_0000004").exists, process)
    find_rank(process, 1).send_signal(signal.SIGKILL)
    assert process.wait() == 0
    log = (tmp_path / "log").read_text()
    assert "Continuing from" in log
    assert train_records(run) == train_records(whole)


@pytest.mark.parametrize("failure", ["raising", "hanging"])
def test_the_rank_that_fails_is_heard_first(
    failure: str, make_values: MakeValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL_BY", failure)
    values = make_values("pretrain", tmp_path / "run", parallel={"distributed_timeout_minutes": 0.25})
    options = (*TWO_RANKS, "--shutdown-timeout", "1")
    process = start(values, tmp_path / "log", *options, script="tests/training/failing_run.py")
    assert process.wait() == 1
    log = (tmp_path / "log").read_text()
    summary = log[log.index("Root Cause") :]
    if failure == "raising":
        first = log.index("Traceback")
        assert log[first : log.index("ZeroDivisionError: a defect of rank 1")].count("Traceback") == 1
        assert "rank      : 1 (local_rank: 1)" in summary
        assert "ZeroDivisionError: a defect of rank 1" in summary
    else:
        assert "rank 0 lost contact with another rank (" in log
        assert "Timed out waiting 15000ms" in summary
    assert list((tmp_path / "run").glob("exit.json")) == []
