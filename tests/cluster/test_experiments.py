"""The grid of experiments on Slurm: no cell starts, and none waits, when the data could not be made."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples.paper.experiments.slurm import write_chain
from tests.cluster.slurm import Slurm, jobs_of, wait_until
from tools.submit import main


def test_cells_are_cancelled_when_the_data_fail(slurm: Slurm, login: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells: Any = [SimpleNamespace(key=key) for key in "ab"]
    assert main([str(write_chain(cells, login, ["-c", "raise SystemExit(1)"], 2, []))]) == 0
    jobs = jobs_of(capsys.readouterr().out)
    assert slurm.wait(jobs["data"]) == ("FAILED", "1:0")
    assert slurm.wait(jobs["cells"])[0] == "CANCELLED"
    wait_until(lambda: not slurm.run("squeue", "-h"))
