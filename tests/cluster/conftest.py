"""A Slurm and plain hosts, one of each for a module."""

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
