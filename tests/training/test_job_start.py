"""The age of a job: counted from its start, through restarts, by clocks that nobody sets."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from megatron_prealign.platform import cpu as redirection
from megatron_prealign.platform import initialize_distributed, select_platform, shut_down_distributed
from megatron_prealign.training import interruption
from megatron_prealign.training.interruption import Interruption, job_age
from tests.launching import start
from tests.workspace import MakeValues

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import os, sys, time
from pathlib import Path
from megatron_prealign.training.interruption import job_age
age, own = job_age(), time.clock_gettime(time.CLOCK_BOOTTIME)
with Path(sys.argv[1]).open("a") as file:
    file.write(f"{age} {own}\\n")
time.sleep(1)
raise SystemExit(os.environ["TORCHELASTIC_RESTART_COUNT"] == "0")
"""


@pytest.fixture
def lone_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_START_TIME", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("lone_process")
def test_a_lone_process_is_a_job() -> None:
    age = time.time() - psutil.Process().create_time()
    assert job_age() == pytest.approx(age, abs=1.0)


@pytest.mark.usefixtures("lone_process")
def test_slurm_says_when_its_job_started_unless_the_process_is_older(monkeypatch: pytest.MonkeyPatch) -> None:
    own = job_age()
    monkeypatch.setattr(psutil, "boot_time", lambda: time.time() - 90000)
    monkeypatch.setenv("SLURM_JOB_START_TIME", str(int(time.time()) - 86400))
    assert job_age() == pytest.approx(86400, abs=10)
    # Read through a clock that was set back since, before the host was up, or not readable.
    for start_time in (str(int(time.time()) + 3600), "0", str(int(time.time()) - 100000), "soon", "nan", "-inf", ""):
        monkeypatch.setenv("SLURM_JOB_START_TIME", start_time)
        assert own <= job_age() < own + 60


@pytest.mark.usefixtures("lone_process")
def test_a_parent_that_is_not_torchrun_is_no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell in which the variable was left behind."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "left behind")
    monkeypatch.setattr(interruption, "_age", lambda process: 5.0 if process.pid == os.getpid() else 1e6)
    assert job_age() == 5.0


@pytest.mark.parametrize("through_a_script", [False, True])
def test_restarts_by_torchrun_do_not_make_a_job_younger(through_a_script: bool, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    script = tmp_path / "worker.sh"
    script.write_text(f"#!/bin/sh\n{sys.executable} {tmp_path / 'worker.py'} $1\nexit $?\n")
    script.chmod(0o755)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "1"]
    command += ["--no-python", str(script)] if through_a_script else [str(tmp_path / "worker.py")]
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_JOB_START_TIME"}
    subprocess.run(
        [*command, str(tmp_path / "ages")],
        env={**environment, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    (first, first_at), (second, second_at) = (
        map(float, line.split()) for line in (tmp_path / "ages").read_text().splitlines()
    )
    assert second - first == pytest.approx(second_at - first_at, abs=0.5)


def test_a_run_that_torchrun_restarts_ends_by_the_limit_of_its_job(
    make_values: MakeValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_START_TIME", raising=False)
    # A moment before torchrun's own start.
    monkeypatch.setenv("STARTED", str(time.monotonic()))
    # Longer than from setting the limit to the first step.
    monkeypatch.setenv("FIRST_SECONDS", "20")
    process = start(
        make_values("pretrain", tmp_path / "run"),
        tmp_path / "log",
        *("--standalone", "--max-restarts", "3"),
        script="tests/training/restarted_run.py",
    )
    process.wait()
    log = (tmp_path / "log").read_text()
    assert "Stopped by training.exit_duration_minutes; run the same command to resume (exit code 75)." in log, log
    note = json.loads((tmp_path / "run" / "exit.json").read_text())
    assert note == {"exit_code": 75, "cause": "training.exit_duration_minutes"}
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.usefixtures("lone_process")
def test_a_clock_that_is_set_moves_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    initialize_distributed(select_platform("cpu"))
    try:
        wall, monotonic = time.time, time.monotonic
        minutes = job_age() / 60 + 10
        interruption = Interruption(minutes)
        for shift, passed, ends in ((-86400.0, 0.0, False), (86400.0, 0.0, False), (-86400.0, 601.0, True)):
            monkeypatch.setattr(time, "time", lambda shift=shift: wall() + shift)
            monkeypatch.setattr(time, "monotonic", lambda passed=passed: monotonic() + passed)
            assert interruption.agreed(torch.device("cpu")) is ends
    finally:
        monkeypatch.undo()
        shut_down_distributed()
        redirection.uninstall()
