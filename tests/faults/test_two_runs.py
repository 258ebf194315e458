"""Two runs on one output folder: the second refuses, the first is not disturbed."""

import signal
from collections.abc import Callable
from pathlib import Path

from tests.faults.conftest import MakeRun, Undisturbed
from tests.faults.runs import Run, read_records


def test_the_second_refuses(make_run: MakeRun, undisturbed: Callable[[str, str], Undisturbed], tmp_path: Path) -> None:
    whole = undisturbed("pretrain", "tp2")
    values = make_run("pretrain", "tp2", tmp_path / "run")
    first = Run.start(values)
    assert first.wait_for((tmp_path / "run" / "run.holder").exists)
    first.send(signal.SIGSTOP)
    second = Run.start(values)
    assert second.wait() == [2, 2]
    first.send(signal.SIGCONT)
    assert f"error: training.run_path {tmp_path / 'run'} is in use by the run of process " in second.log
    assert first.wait() == [0, 0], first.log
    assert read_records(first.path) == whole.records
