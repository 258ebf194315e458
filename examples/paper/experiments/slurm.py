"""The Slurm launcher: a job that makes the data, then an array with a task a cell."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.paper.experiments.cells import Cell
from examples.steps import REPOSITORY, StepError, write_text

HEAD = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --output={logs}
{options}
set -euo pipefail
cd {repository}
"""


def write_scripts(
    cells: Sequence[Cell], folder: Path, command: Sequence[str], jobs: int, options: Sequence[str]
) -> tuple[Path, Path]:
    """Write the script of the data and that of the array, and return both.

    Args:
        cells: unfinished ones.
        folder: for the scripts and the logs.
        command: the grid's command line without launcher and jobs.
        jobs: array tasks that run at once.
        options: of sbatch, for example --partition=gpu.
    """
    run = shlex.join([sys.executable, *command, "--launcher", "local", "--jobs", "1", "--no-report"])
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    lines = "".join(f"#SBATCH {option}\n" for option in options)
    shared = {"repository": shlex.quote(str(REPOSITORY))}
    data, array = folder / "data.sh", folder / "array.sh"
    logs = folder / "logs/data-%j.out"
    write_text(data, HEAD.format(name="experiments-data", logs=logs, options=lines, **shared) + f"{run} --only-data\n")
    logs = folder / "logs/%a-%A.out"
    lines += f"#SBATCH --array=1-{len(cells)}%{jobs}\n"
    # In the script itself, of which Slurm keeps a copy: a later submission has other cells.
    keys = " ".join(cell.key for cell in cells)
    body = f'cells=({keys})\n{run} --only-cell "${{cells[SLURM_ARRAY_TASK_ID - 1]:?}}"\n'
    write_text(array, HEAD.format(name="experiments", logs=logs, options=lines, **shared) + body)
    return data, array


def submit(data: Path, array: Path) -> tuple[str, str]:
    """Submit both scripts and return their job numbers; the array starts after the data, or is cancelled if they fail.

    Raises:
        StepError: sbatch is not there, or refuses.
    """
    if shutil.which("sbatch") is None:
        raise StepError(f"sbatch was not found; on a machine of the cluster: sbatch {data}, then {array} after it")
    first = _sbatch([str(data)])
    return first, _sbatch([f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes", str(array)])


def _sbatch(arguments: Sequence[str]) -> str:
    result = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True)
    if result.returncode:
        raise StepError(f"sbatch {shlex.join(arguments)} failed: {result.stderr.strip()}")
    return result.stdout.strip().partition(";")[0]
