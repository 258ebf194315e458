"""A Slurm and plain hosts, one of each for a module."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, make_hosts
from tests.cluster.slurm import Slurm, make_slurm

_NUM_HOSTS = 4


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """A Slurm of four hosts, with a controller of its own."""
    # The folders of pytest are closed to ordinary users, who need the configuration.
    with tempfile.TemporaryDirectory(prefix="prealign-slurm-") as folder:
        Path(folder).chmod(0o755)
        with make_slurm(Path(folder), _NUM_HOSTS) as slurm:
            yield slurm


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    """Four hosts without Slurm, linked by a switch."""
    folder = tmp_path / "network"
    folder.mkdir()
    with make_hosts(folder, _NUM_HOSTS) as (_, *hosts):
        yield hosts


@pytest.fixture
def login(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, with the commands of Slurm as they are where jobs are submitted."""
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "squeue"):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {slurm.controller.enter} /usr/bin/{name} "$@"\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.chdir(tmp_path)
    return tmp_path
