"""The entry script under torchrun, as users start it, and what a test does to its processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]


def start(
    values: dict[str, Any],
    log_path: Path,
    *options: str,
    script: str = "pretrain_prealign.py",
    prefix: tuple[str, ...] = (),
) -> subprocess.Popen[str]:
    """Start torchrun with `options` in a process group of its own; everything it prints goes to `log_path`."""
    config_path = log_path.with_suffix(".yaml")
    config_path.write_text(yaml.safe_dump(values))
    command = [*prefix, sys.executable, "-m", "torch.distributed.run", *(options or ("--standalone",))]
    with log_path.open("w") as log:
        return subprocess.Popen(
            [*command, script, "--config", str(config_path)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def wait_until(happened: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Wait for something that the processes are about to do."""
    while not happened():
        assert process.poll() is None, f"ended with {process.returncode} before it happened"
        time.sleep(0.001)


def find_rank(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    """Return the process of a rank that this torchrun started."""
    children = psutil.Process(process.pid).children()
    (found,) = [child for child in children if child.environ().get("RANK") == str(rank)]
    return found


def train_records(run_path: Path) -> dict[int, dict[str, Any]]:
    """Return the training records of a run by step, without what depends on the time."""
    records = [json.loads(line) for line in (run_path / "metrics.jsonl").read_text().splitlines()]
    kept = ("lm_loss", "alignment_loss", "gradient_norm", "learning_rate", "tokens")
    return {
        record["step"]: {name: record[name] for name in kept if name in record}
        for record in records
        if record["kind"] == "train"
    }
