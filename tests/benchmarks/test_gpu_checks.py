"""The checks on a GPU, where there is none."""

import subprocess
from typing import Any

import pytest

from benchmarks import gpu_checks


@pytest.mark.slow
def test_a_line_says_what_each_check_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_checks.main(["--device", "cpu", "--only", "packages", "kernels"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("PASS  packages: CPU, torch 2.")
    assert second == "SKIP  kernels: kernels of GPUs"


@pytest.mark.parametrize(
    ("code", "printed", "error", "line"),
    [
        (0, "log\n[false, 'seen']", "", "FAIL  waits: seen"),
        (1, "", "Traceback\nRuntimeError: no kernel image", "FAIL  waits: RuntimeError: no kernel image"),
        (-9, "", "", "FAIL  waits: exit code -9"),
    ],
)
def test_a_check_that_fails_or_crashes_fails_alone(
    code: int,
    printed: str,
    error: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if command[-1] == "waits":
            return subprocess.CompletedProcess(command, code, printed.replace("'", '"'), error)
        return subprocess.CompletedProcess(command, 0, '[true, "fine"]', "")

    monkeypatch.setattr(subprocess, "run", run)
    assert gpu_checks.main(["--device", "cpu", "--only", "waits", "memory"]) == 1
    assert capsys.readouterr().out.splitlines() == [line, "PASS  memory: fine"]


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_checks.main([])
    assert "no GPU is visible" in capsys.readouterr().err
