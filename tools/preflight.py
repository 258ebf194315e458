r"""Check every process of a cluster before a long run: one page, and exit code 0, or 1 if something is wrong.

    srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 ... tools/preflight.py --data data/en_text_document \
        --folder runs/own --free-gb 500 --bandwidth-gb 200

Start it as the run itself: the same hosts, processes and environment.
"""

import argparse
import hashlib
import json
import resource
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.dataset.manifest import check_manifest, manifest_path
from megatron_prealign.ranks import check_rendezvous, is_first_of_host, read_ranks

if TYPE_CHECKING:
    from megatron_prealign.platform import Platform

_PACKAGES = ("megatron-prealign", "torch", "megatron-core", "numpy", "transformers", "transformer-engine", "apex")
_REDUCED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 24}
_MATRIX = {"cuda": 8192, "cpu": 256}
_REPEATS = 5
# Of the median: a GPU that is slower holds up all others.
_SLOW_GPU = 0.8


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--data", type=path_argument, nargs="*", default=[], metavar="PREFIX", help="datasets that every host must read"
    )
    parser.add_argument("--folder", type=path_argument, default=Path(), help="where the run will write")
    parser.add_argument("--free-gb", type=float, default=0.0, help="GB that must be free there")
    parser.add_argument(
        "--bandwidth-gb", type=float, default=0.0, help="GB/s of bus bandwidth that an all-reduce must reach"
    )
    parser.add_argument("--clock-seconds", type=float, default=5.0, help="most seconds between the clocks of two hosts")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="what the run trains on")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, 1 if something is wrong, 2 if it could not begin."""
    arguments = build_parser().parse_args(argv)
    # Imported late: --help must not wait for torch and megatron-core.
    import torch

    from megatron_prealign.platform import initialize_distributed, select_platform
    from megatron_prealign.platform.agreement import from_all_ranks

    ranks = read_ranks()
    check_rendezvous()
    platform = select_platform(arguments.device, ranks.local_rank)
    initialize_distributed(platform)
    facts = _facts(arguments, platform)
    torch.distributed.barrier()
    facts["clock"] = time.time()
    facts["bandwidth"] = all_reduce_bandwidth(platform)
    everywhere = from_all_ranks(facts)
    problems = find_problems(everywhere, arguments)
    if ranks.rank == 0:
        print(page(everywhere, problems), flush=True)
    torch.distributed.destroy_process_group()
    return 1 if problems else 0


def _facts(arguments: argparse.Namespace, platform: "Platform") -> dict[str, Any]:
    """Return what this process finds, with its own problems."""
    import torch

    problems = [
        problem for prefix in arguments.data for problem in check_manifest(prefix, with_hashes=is_first_of_host())
    ]
    speed = 0.0
    try:
        speed = matrix_speed(platform)
    except RuntimeError as error:
        problems.append(f"{platform.device}: a matrix product failed ({error})")
    return {
        "host": socket.gethostname(),
        "versions": {"python": ".".join(map(str, sys.version_info[:3]))} | _versions(),
        "device": torch.cuda.get_device_name(platform.device) if platform.name == "cuda" else "cpu",
        "speed": speed,
        "data": {str(prefix): _fingerprint(prefix) for prefix in arguments.data},
        "free_gb": _free_gb(arguments.folder),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "problems": problems,
    }


def find_problems(everywhere: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> list[str]:
    """Return what is wrong, by host, from what all ranks found."""
    problems = [f"{facts['host']}: {problem}" for facts in everywhere for problem in facts["problems"]]
    for name in ("versions", "device", "data"):
        problems += _differences(name, everywhere)
    clocks = [facts["clock"] for facts in everywhere]
    if max(clocks) - min(clocks) > arguments.clock_seconds:
        early, late = (pick(everywhere, key=lambda facts: facts["clock"])["host"] for pick in (min, max))
        problems.append(f"{early}, {late}: their clocks differ by {max(clocks) - min(clocks):.1f} s; synchronise them")
    median = statistics.median(facts["speed"] for facts in everywhere)
    for rank, facts in enumerate(everywhere):
        if facts["device"] != "cpu" and facts["speed"] < _SLOW_GPU * median:
            problems.append(
                f"{facts['host']}: rank {rank} multiplies at {facts['speed']:.1f} TFLOP/s, the median is {median:.1f}"
            )
        if facts["free_gb"] < arguments.free_gb:
            free = f"{facts['free_gb']:.1f} GB are free in {arguments.folder}"
            problems.append(f"{facts['host']}: {free}, less than {arguments.free_gb:g}")
    bandwidth = min(facts["bandwidth"] for facts in everywhere)
    if len(everywhere) > 1 and bandwidth < arguments.bandwidth_gb:
        problems.append(f"an all-reduce reaches {bandwidth:.1f} GB/s, less than {arguments.bandwidth_gb:g}")
    return list(dict.fromkeys(problems))


def page(everywhere: Sequence[dict[str, Any]], problems: Sequence[str]) -> str:
    """Return the report."""
    first, hosts = everywhere[0], {facts["host"] for facts in everywhere}
    speeds = [facts["speed"] for facts in everywhere]
    lines = [
        f"{len(everywhere)} processes on {len(hosts)} hosts, {first['device']}",
        "versions     " + ", ".join(f"{name} {number}" for name, number in first["versions"].items()),
        f"products     {min(speeds):.3g} to {max(speeds):.3g} TFLOP/s a process",
        f"all-reduce   {min(facts['bandwidth'] for facts in everywhere):.3g} GB/s of bus bandwidth",
        f"free         {min(facts['free_gb'] for facts in everywhere):.1f} GB at least",
        f"open files   {min(facts['open_files'] for facts in everywhere)} at least, by the hard limit",
        f"data         {len(first['data'])} datasets",
    ]
    return "\n".join([*lines, *(f"problem: {problem}" for problem in problems), "not ready" if problems else "ready"])


def all_reduce_bandwidth(platform: "Platform") -> float:
    """Return the bus bandwidth of an all-reduce over all ranks in GB/s, the best of some; 0 with one rank."""
    import torch
    from torch.distributed import ReduceOp

    world_size = torch.distributed.get_world_size()
    values = torch.ones(_REDUCED_BYTES[platform.name] // 4, device=platform.device)
    seconds = _best_seconds(lambda: torch.distributed.all_reduce(values, ReduceOp.MAX), platform)
    return 2 * (world_size - 1) / world_size * values.nbytes / seconds / 1e9


def matrix_speed(platform: "Platform") -> float:
    """Return the speed of this process's matrix products in TFLOP/s, the best of some."""
    import torch

    size = _MATRIX[platform.name]
    matrix = torch.ones(size, size, device=platform.device, dtype=torch.bfloat16)
    return 2 * size**3 / _best_seconds(lambda: matrix @ matrix, platform) / 1e12


def _best_seconds(action: Callable[[], Any], platform: "Platform") -> float:
    seconds = []
    for _ in range(_REPEATS):
        platform.synchronize()
        start = time.perf_counter()
        action()
        platform.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _differences(name: str, everywhere: Sequence[dict[str, Any]]) -> list[str]:
    """Return the hosts whose facts of a name are not those of rank 0."""
    expected = everywhere[0][name]
    return [
        f"{facts['host']}: {name} {_shown(facts[name], expected)}; {everywhere[0]['host']} has "
        f"{_shown(expected, facts[name])}"
        for facts in everywhere
        if facts[name] != expected
    ]


def _shown(value: Any, other: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return json.dumps({key: entry for key, entry in value.items() if other.get(key) != entry})


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _fingerprint(prefix: Path) -> str:
    """Return a short hash of a dataset's manifest, which holds the hashes of its files; empty where it is missing."""
    try:
        return hashlib.sha256(manifest_path(prefix).read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


def _free_gb(folder: Path) -> float:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free / 1e9


if __name__ == "__main__":
    raise SystemExit(main())
