"""The check of a cluster: a healthy one is ready, and each thing that can be wrong is named with its host."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.dataset.manifest import DATA_SUFFIXES
from megatron_prealign.testing import run_distributed
from tools.preflight import build_parser, find_problems, main, page

FACTS: dict[str, Any] = {
    "host": "n1",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "device": "NVIDIA H200",
    "speed": 700.0,
    "data": {"data/en": "0123456789ab"},
    "free_gb": 900.0,
    "open_files": 65536,
    "clock": 1000.0,
    "bandwidth": 180.0,
    "problems": [],
}
ARGUMENTS = build_parser().parse_args(["--folder", "runs", "--free-gb", "500", "--bandwidth-gb", "150"])


def _with(**changes: Any) -> list[str]:
    """Return the problems of four hosts of which the third differs."""
    everywhere = [copy.deepcopy(FACTS) | {"host": f"n{number}"} for number in (1, 2, 3, 4)]
    everywhere[2] |= changes
    return find_problems(everywhere, ARGUMENTS)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"versions": {"python": "3.11.7", "torch": "2.12.0"}},
            'n3: versions {"torch": "2.12.0"}; n1 has {"torch": "2.13.0"}',
        ),
        ({"device": "NVIDIA H100"}, "n3: device NVIDIA H100; n1 has NVIDIA H200"),
        ({"data": {"data/en": "ba9876543210"}}, 'n3: data {"data/en": "ba9876543210"}'),
        ({"speed": 500.0}, "n3: rank 2 multiplies at 500.0 TFLOP/s, the median is 700.0"),
        ({"clock": 1060.0}, "n1, n3: their clocks differ by 60.0 s"),
        ({"free_gb": 100.0}, "n3: 100.0 GB are free in runs"),
        ({"bandwidth": 20.0}, "an all-reduce reaches 20.0 GB/s, less than 150"),
        ({"problems": ["data/en.bin: missing"]}, "n3: data/en.bin: missing"),
    ],
)
def test_what_differs_on_one_host_is_named(changes: dict[str, Any], problem: str) -> None:
    (found,) = _with(**changes)
    assert problem in found


def test_equal_hosts_are_ready() -> None:
    assert _with() == []
    assert page([FACTS], []).endswith("\nready")
    assert page([FACTS], ["n1: broken"]).endswith("\nproblem: n1: broken\nnot ready")


@pytest.mark.slow
def test_ranks_agree_on_what_they_find(workspace: Path, tmp_path: Path) -> None:
    for suffix in (*DATA_SUFFIXES, ".json"):
        if (path := Path(f"{workspace}/data{suffix}")).exists():
            shutil.copy(path, tmp_path)
    options = ["--device=cpu", "--folder", str(tmp_path), "--data", str(tmp_path / "data")]
    assert run_distributed(main, 2, options) == [0, 0]
    with (tmp_path / "data.bin").open("ab") as stream:
        stream.write(b"\0")
    assert run_distributed(main, 2, options) == [1, 1]
