"""Training on the four hosts without Slurm: one rank each, with run folders of their own."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import Host
from tests.launching import ROOT

_RENDEZVOUS = ("--rdzv-backend=c10d", "--rdzv-id=test", "--rdzv-conf=join_timeout=300,read_timeout=30")
# As in the batch script of docs/operations.md, so that a host that comes back is taken in.
_ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class TrainingHosts:
    """A run on all hosts; below `runs` each has files of its own."""

    def __init__(self, hosts: Sequence[Host], runs: Path) -> None:
        self.hosts = hosts
        self.runs = runs
        self._command: list[str] = []

    def own(self, number: int) -> Path:
        """Return where the files of a host really are."""
        return self.runs.with_name(f"{self.runs.name}-{self.hosts[number].name}")

    def log(self, number: int) -> Path:
        """Return the file with all that a host printed."""
        return self.own(number) / "log"

    def start(self, values: Mapping[str, Any], *options: str) -> list[subprocess.Popen[str]]:
        """Start torchrun with `options` on all hosts, the rendezvous on the first."""
        self.runs.mkdir(exist_ok=True)
        config = self.runs.with_name(f"{Path(values['training']['run_path']).name}.yaml")
        config.write_text(yaml.safe_dump(dict(values)))
        place = (f"--rdzv-endpoint={self.hosts[0].name}:29500", f"--nnodes={len(self.hosts)}", "--nproc-per-node=1")
        script = (str(ROOT / "pretrain_prealign.py"), "--config", str(config))
        self._command = [sys.executable, "-m", "torch.distributed.run", *_RENDEZVOUS, *place, *options, *script]
        return [self.start_host(number) for number in range(len(self.hosts))]

    def start_host(self, number: int) -> subprocess.Popen[str]:
        """Start the run's command on one host, also on one that was killed."""
        self.own(number).mkdir(exist_ok=True)
        prepare = f"mount --bind {self.own(number)} {self.runs}"
        return self.hosts[number].start(self._command, self.log(number), _ENVIRONMENT, prepare)

    def logs(self) -> str:
        """Return the ends of all logs."""
        texts = [self.log(number).read_text()[-3000:] for number in range(len(self.hosts))]
        return "\n".join(f"--- {host.name}\n{text}" for host, text in zip(self.hosts, texts, strict=True))
