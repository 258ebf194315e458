"""Runs of the entry script in real processes that a test can kill, and what they leave behind."""

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from megatron_prealign.testing.distributed import start_ranks

WORLD_SIZE = 2
NUM_STEPS = 12
# As long as torchrun waits before it kills what its SIGTERM did not end.
END_SECONDS = 30.0
COMPARED = ("tokens", "lm_loss", "alignment_loss", "learning_rate", "gradient_norm")

Values = dict[str, dict[str, Any]]
Records = list[tuple[int, Mapping[str, Any]]]


def _train(config_path: str, log_path: str) -> int:
    """Run the entry script as one rank, its standard error in a file."""
    import pretrain_prealign

    os.dup2(os.open(f"{log_path}.{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
    code = pretrain_prealign.main(["--config", config_path])
    # As a process of its own would end: torn down by the kernel, whatever threads still run.
    os._exit(code)


@dataclass
class Run:
    """A run in real processes, as torchrun starts them."""

    values: Values
    processes: list[BaseProcess]
    log_path: Path

    @classmethod
    def start(cls, values: Values, world_size: int = WORLD_SIZE) -> "Run":
        """Start the ranks of a run; its configuration and logs lie beside its folder."""
        path = Path(values["training"]["run_path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        config_path = path.with_name(f"{path.name}-{time.monotonic_ns()}.yaml")
        config_path.write_text(yaml.safe_dump(values), encoding="utf-8")
        log_path = config_path.with_suffix(".log")
        processes, _ = start_ranks(_train, world_size, str(config_path), str(log_path))
        return cls(values, processes, log_path)

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return Path(self.values["training"]["run_path"])

    @property
    def log(self) -> str:
        """What rank 0 wrote on standard error."""
        return Path(f"{self.log_path}.0").read_text(encoding="utf-8")

    @property
    def is_over(self) -> bool:
        """Whether all ranks have ended."""
        return not any(process.is_alive() for process in self.processes)

    def wait(self, seconds: float = 120.0) -> list[int | None]:
        """Wait for all ranks and return their exit codes, none of those that had to be killed."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(end - time.monotonic(), 0))
        codes = [process.exitcode for process in self.processes]
        self.kill(*range(len(self.processes)))
        return codes

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until something holds or the run is over; tell which."""
        while not self.is_over:
            if condition():
                return True
            time.sleep(0.001)
        return False

    def kill(self, *ranks: int) -> None:
        """Send SIGKILL."""
        for rank in ranks:
            self.processes[rank].kill()
            self.processes[rank].join()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all ranks that still run."""
        for process in self.processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    def lose(self, rank: int) -> None:
        """Kill one rank, and end the others as torchrun does."""
        self.kill(rank)
        self.send(signal.SIGTERM)
        self.wait(END_SECONDS)


def read_records(run: Path) -> Records:
    """Return what is compared of each training record, one for every step."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    train = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    return [(record["step"], {name: record.get(name) for name in COMPARED}) for record in train]
