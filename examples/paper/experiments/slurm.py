"""The Slurm launcher: a chain for tools/submit.py of a job that makes the data, then an array with a task a cell."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from examples.paper.experiments.cells import Cell
from examples.paper.experiments.recipes import digest
from examples.steps import write_text


def write_chain(cells: Sequence[Cell], output: Path, command: Sequence[str], jobs: int, options: Sequence[str]) -> Path:
    """Write the chain of some cells below the grid's folder, and return its file.

    Args:
        cells: unfinished ones.
        output: the grid's folder.
        command: the grid's command line without launcher and jobs.
        jobs: array tasks that run at once.
        options: of sbatch, for example --partition=gpu.
    """
    run = shlex.join([sys.executable, *command, "--launcher", "local", "--jobs", "1", "--no-report"])
    keys = [cell.key for cell in cells]
    # Other cells of the same grid may be in the queue already.
    name = f"experiments-{digest(keys, 6)}"
    folder = output.resolve() / "slurm" / name
    # The files of cells tell what is finished, not what an earlier submission left.
    for mark in folder.glob("*.done*"):
        mark.unlink()
    one = f'cells=({" ".join(keys)})\n{run} --only-cell "${{cells[SLURM_ARRAY_TASK_ID - 1]:?}}"'
    data = {"name": "data", "command": f"{run} --only-data"}
    array = {"name": "cells", "command": one, "options": [f"--array=1-{len(cells)}%{jobs}"]}
    chain = {"name": name, "folder": str(folder), "options": list(options), "steps": [data, array]}
    write_text(folder / "chain.yaml", yaml.safe_dump(chain, sort_keys=False))
    return folder / "chain.yaml"
