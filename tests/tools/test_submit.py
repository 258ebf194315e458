"""Chains of steps without Slurm: what is refused, what is printed, and steps that run here."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.submit import main


def _write(folder: Path, steps: Any, **more: Any) -> str:
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "folder": str(folder / "chain"), "steps": steps} | more))
    return str(path)


def test_steps_run_here_and_continue_where_one_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready = tmp_path / "ready"
    steps = [
        {"name": "one", "command": f"echo one >> {tmp_path}/order"},
        {"name": "two", "command": f"[ -e {ready} ]\necho two >> {tmp_path}/order"},
        # Stopped twice, then done.
        {
            "name": "three",
            "command": f"echo three >> {tmp_path}/order\n[ $(wc -l < {tmp_path}/order) -ge 5 ] || exit 75",
        },
    ]
    path = _write(tmp_path, steps)
    assert main([path, "--local"]) == 1
    assert "error: step two ended with 1" in capsys.readouterr().err
    ready.touch()
    assert main([path, "--local"]) == 0
    assert (tmp_path / "order").read_text().split() == ["one", "two", "three", "three", "three"]


def test_a_step_beside_another_runs_last_here(tmp_path: Path) -> None:
    steps = [{"name": name, "command": f"echo {name} >> {tmp_path}/order"} for name in ("watch", "two")]
    assert main([_write(tmp_path, [steps[0] | {"beside": True}, steps[1]]), "--local"]) == 0
    assert (tmp_path / "order").read_text().split() == ["two", "watch"]


def test_a_dry_run_prints_the_scripts_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [{"name": "one", "command": "true", "options": ["--nodes=2"]}]
    assert main([_write(tmp_path, steps, options=["--partition=gpu"], setup="module load cuda"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "#SBATCH --job-name=own-one\n" in printed
    assert "#SBATCH --partition=gpu\n#SBATCH --nodes=2\n" in printed
    assert "module load cuda\ntrue\n" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["chain.yaml"]


def test_every_wrong_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([_write(tmp_path, [{"name": "a b", "comand": "true"}], setpu="x"), "--local"]) == 2
    error = capsys.readouterr().err
    for place in ("steps.0.name:", "steps.0.command:", "steps.0.comand:", "setpu:"):
        assert place in error
    assert main([_write(tmp_path, [{"name": "a", "command": "true"}] * 2), "--local"]) == 2
    assert "a is there twice" in capsys.readouterr().err


def test_arrays_and_a_missing_slurm_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path, [{"name": "one", "command": "true", "options": ["--array=0-3"]}])
    assert main([path, "--local"]) == 2
    assert "step one: is a job array, which --local can't run" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([path]) == 2
    assert "no sbatch here" in capsys.readouterr().err


def _slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a stand-in of Slurm before the PATH: it refuses scripts that ask for the partition `none`."""
    programs = {
        "squeue": "",
        "sbatch": 'grep -q partition=none "${!#}" && { echo invalid partition >&2; exit 1; }\necho 7\n',
    }
    (folder / "bin").mkdir()
    for name, lines in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{lines}")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def test_a_refused_step_names_the_jobs_that_stay_in_the_queue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _slurm(tmp_path, monkeypatch)
    steps = [{"name": "one", "command": "true"}, {"name": "two", "command": "true", "options": ["--partition=none"]}]
    assert main([_write(tmp_path, steps)]) == 2
    error = capsys.readouterr().err
    assert "step two: " in error and "invalid partition" in error
    assert "7 stay in the queue: scancel 7, or let them end" in error


@pytest.mark.parametrize("array", ["0-2", "0,1,2%1", "1-2,0"])
def test_an_array_is_finished_when_each_task_is(
    array: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _slurm(tmp_path, monkeypatch)
    path = _write(tmp_path, [{"name": "bake", "command": "true", "options": [f"--array={array}"]}])
    assert main([path]) == 0
    for task in range(3):
        assert capsys.readouterr().out == "bake: job 7\n"
        (tmp_path / "chain" / f"bake.done.{task}").touch()
        assert main([path]) == 0
    assert capsys.readouterr().out == "bake: finished\n"


def test_options_of_sbatch_have_one_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [{"name": "one", "command": "true", "options": ["time=00:30:00", "--array 0-2", "-a0-2", "--nodes=2"]}]
    assert main([_write(tmp_path, steps, options=["gpu", "--gpu-bind"]), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "options: gpu: write it as --name or --name=value" in error
    assert all(f"step one: options: {option}:" in error for option in ("time=00:30:00", "--array 0-2", "-a0-2"))
    assert "--nodes" not in error and "--gpu-bind" not in error
    assert main([_write(tmp_path, [{"name": "one", "command": "true"}], options=["--array=0-2"]), "--dry-run"]) == 2
    assert "options: --array belongs to a step" in capsys.readouterr().err
    assert main([_write(tmp_path, [{"name": "one", "command": "true"}], max_restarts=-1), "--dry-run"]) == 2
    assert "max_restarts: " in capsys.readouterr().err


def test_a_step_whose_submit_was_killed_is_not_run_beside_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    command = f"echo >> {begun}; while [ ! -e {go_on} ]; do sleep 0.1; done"
    path = _write(tmp_path, [{"name": "one", "command": command}])
    with subprocess.Popen([sys.executable, "-m", "tools.submit", path, "--local"]) as first:
        while not begun.exists():
            time.sleep(0.1)
        first.kill()
    assert main([path, "--local"]) == 2
    assert "a step of this chain runs here already" in capsys.readouterr().err
    go_on.touch()
    while main([path, "--local"]) == 2:
        time.sleep(0.1)
    assert len(begun.read_text()) == 1
