"""A bake as a Slurm array: the files of a local bake, also when a task is killed; errors that reach the scheduler."""

import contextlib
import json
import re
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.slurm import Slurm, wait_until
from tests.launching import ROOT

pytest.importorskip("datatrove", reason="datatrove is not installed (extra cluster)")
pytestmark = pytest.mark.slow

SUFFIXES = (".bin", ".idx", ".switch.bin", ".switch.idx")


@pytest.fixture
def command(tmp_path: Path, documents: list[str], bpe_folder: Path) -> list[str]:
    """A bake of four files, without its output."""
    for number in range(4):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents[number:40:4])
        (tmp_path / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "lexicon.tsv").write_text("the\tdie\tde\nof\tvon\tde\n", encoding="utf-8")
    options = {"lexicon": tmp_path / "lexicon.tsv", "codeswitch-ratio": 0.2, "tokenizer-model": bpe_folder}
    named = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, str(ROOT / "tools/preprocess_codeswitch.py"), "--input", f"{tmp_path}/*.jsonl", *named]


def _submit(slurm: Slurm, command: list[str], prefix: Path) -> str:
    """Submit a bake from a shell in which no environment is active; return the id of its last job."""
    slurm_options = ["--executor=slurm", "--workers=4", "--cluster", "partition=main", "memory_gb=1"]
    clean = {"PATH": "/usr/bin:/bin:/usr/sbin", "PYTHONPATH": str(ROOT)}
    result = slurm.controller.run([*command, *slurm_options, f"--output-prefix={prefix}"], slurm.environment | clean)
    assert result.returncode == 0, result.stderr
    found = re.search(r"Slurm job (\d+)", result.stdout)
    assert found
    return found[1]


def _assert_as_local(slurm: Slurm, command: list[str], folder: Path) -> None:
    result = slurm.controller.run([*command, f"--output-prefix={folder}/local"])
    assert result.returncode == 0, result.stderr
    for suffix in SUFFIXES:
        expected, baked = (folder / f"{name}_text_document{suffix}" for name in ("local", "slurm"))
        assert baked.read_bytes() == expected.read_bytes()
    contents = [json.loads((folder / f"{name}_text_document.json").read_text()) for name in ("local", "slurm")]
    assert contents[0]["content"] == contents[1]["content"]


def test_an_array_gives_the_files_of_a_local_bake(slurm: Slurm, tmp_path: Path, command: list[str]) -> None:
    last = _submit(slurm, command, tmp_path / "slurm")
    assert slurm.wait(last) == ("COMPLETED", "0:0"), _logs(tmp_path)
    wait_until(lambda: not slurm.run("squeue", "-h"))
    _assert_as_local(slurm, command, tmp_path)
    assert not (tmp_path / ".slurm_text_document.bake").exists()
    # The next bake at the same place is not taken for one that did not end.
    result = slurm.controller.run([*command, f"--output-prefix={tmp_path}/slurm", "--overwrite"])
    assert result.returncode == 0, result.stderr


def test_what_a_killed_task_left_is_baked_again(slurm: Slurm, tmp_path: Path, command: list[str]) -> None:
    last = _submit(slurm, command, tmp_path / "slurm")
    task = wait_until(lambda: _find_task(slurm, 1))
    array = task.environ()["SLURM_ARRAY_JOB_ID"]
    task.kill()
    assert slurm.wait(f"{array}_1")[0] == "FAILED"
    assert slurm.wait(last) == ("COMPLETED", "0:0"), _logs(tmp_path)
    _assert_as_local(slurm, command, tmp_path)


def test_a_bad_line_fails_the_last_job_and_leaves_no_job_waiting(
    slurm: Slurm, tmp_path: Path, command: list[str]
) -> None:
    with (tmp_path / "2.jsonl").open("a") as stream:
        stream.write("bad\n")
    last = _submit(slurm, command, tmp_path / "slurm")
    script = tmp_path / "train.sh"
    script.write_text("#!/bin/bash\n#SBATCH --output=/dev/null\ntrue\n")
    after = slurm.submit(script, f"--dependency=afterok:{last}", "--kill-on-invalid-dep=yes")
    assert slurm.wait(last)[0] == "FAILED"
    assert re.search(r"2\.jsonl:11: not JSON", _logs(tmp_path))
    assert slurm.wait(after)[0] == "CANCELLED"
    wait_until(lambda: not slurm.run("squeue", "-h"))
    assert not list(tmp_path.glob("slurm_*"))


def _find_task(slurm: Slurm, number: int) -> psutil.Process | None:
    """Return the process of a task of the array, once it runs."""
    wanted = slurm.environment | {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_JOB_NAME": "bake"}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                "launch_pickled_pipeline" in " ".join(process.cmdline()[:2])
                and wanted.items() <= process.environ().items()
            ):
                return process
    return None


def _logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob(".slurm_text_document.bake*/**/*.out"))
