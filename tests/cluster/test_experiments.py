"""The grid of experiments on Slurm: no cell starts, and none waits, when the data could not be made."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples.paper.experiments.slurm import submit, write_scripts
from tests.cluster.slurm import Slurm, wait_until


def test_cells_are_cancelled_when_the_data_fail(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f'#!/bin/sh\nexec {slurm.controller.enter} {shutil.which("sbatch")} "$@"\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    cells: Any = [SimpleNamespace(key=key) for key in "ab"]
    data, array = submit(*write_scripts(cells, tmp_path, ["-c", "raise SystemExit(1)"], 2, []))
    assert slurm.wait(data) == ("FAILED", "1:0")
    assert slurm.wait(array)[0] == "CANCELLED"
    wait_until(lambda: not slurm.run("squeue", "-h"))
