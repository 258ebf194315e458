"""Bakes on Ray and Slurm through datatrove's executors.

Every task bakes its share of the pieces of a work folder, which must be on a file system that all nodes share. The
executors' completion marks spare a second run the finished tasks.
"""

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from megatron_prealign.bake.job import Job, slurm_logs
from megatron_prealign.bake.piece import bake_share
from megatron_prealign.errors import DataError
from megatron_prealign.text.encoders import limit_threads


class BakeShare(PipelineStep):  # type: ignore[misc]
    """The step that every task runs."""

    type = "bake"
    name = "pieces to shards"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Bake every `world_size`-th piece from `rank` on; yields nothing."""
        limit_threads(1)
        bake_share(self._folder, rank, world_size)
        yield from ()


def bake_on_ray(job: Job, num_tasks: int, settings: Mapping[str, str]) -> None:
    """Bake the unfinished pieces of a job on a Ray cluster and wait for them.

    Args:
        job: The job; its folder is on a file system that all nodes share.
        num_tasks: Tasks at a time, one core each.
        settings: `address` of the cluster (default: RAY_ADDRESS, or a cluster of this machine); `memory_gb` of a task.

    Raises:
        DataError: The problems that tasks reported, or that pieces are unfinished without one because a task died.
    """
    import ray

    _forget_problems(job)
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(address=settings.get("address"), log_to_driver=False)
    try:
        RayPipelineExecutor(
            pipeline=[BakeShare(job.folder.absolute())],
            tasks=num_tasks,
            mem_per_cpu_gb=float(settings.get("memory_gb", 2)),
            logging_dir=str(_fresh_log_folder(job.folder / "logs", num_tasks)),
        ).run()
    finally:
        if is_ours:
            ray.shutdown()
    raise_problems(job)


def submit_to_slurm(job: Job, num_tasks: int, settings: Mapping[str, str], finish: Callable[..., None]) -> str:
    """Submit a job array that bakes the pieces, and a job after it that merges the shards; return the id of the latter.

    The last job also starts when a task has failed: it bakes what killed tasks left, or fails with the error of a bad
    line, so that what depends on it sees how the bake ended.

    Args:
        job: The job; its folder is on a file system that all nodes share.
        num_tasks: Tasks of the array, one core each.
        settings: `partition` and `time` of the jobs, `memory_gb` and `venv` of a task, by default this process's Python
            environment; others are passed to sbatch.
        finish: What the last job runs.
    """
    _forget_problems(job)
    own = {"partition", "time", "memory_gb", "venv"}
    path = f"export PATH={shlex.quote(f'{sys.prefix}/bin')}:$PATH"
    common: dict[str, Any] = {
        "time": settings.get("time", "12:00:00"),
        "partition": settings["partition"],
        "mem_per_cpu_gb": int(settings.get("memory_gb", 2)),
        "env_command": f"source {shlex.quote(settings['venv'])}" if "venv" in settings else path,
        "qos": settings.get("qos", ""),
        # datatrove's job of statistics would wait for a failed array for ever.
        "sbatch_args": {"kill-on-invalid-dep": "yes"}
        | {name: value for name, value in settings.items() if name not in own | {"qos"}},
    }
    logs = slurm_logs(job.folder)
    array = SlurmPipelineExecutor(
        pipeline=[BakeShare(job.folder.absolute())],
        tasks=num_tasks,
        job_name="bake",
        logging_dir=str(_fresh_log_folder(logs, num_tasks)),
        **common,
    )
    last = SlurmPipelineExecutor(
        pipeline=[finish],
        tasks=1,
        job_name="bake-finish",
        depends=array,
        run_on_dependency_fail=True,
        logging_dir=str(_fresh_log_folder(logs, 0)),
        **common,
    )
    last.run()
    return str(last.job_id)


def raise_problems(job: Job) -> None:
    """Raise the problems that tasks on other machines reported as a DataError, if a piece is unfinished."""
    if not (unfinished := job.unfinished()):
        return
    paths = [path for number in range(len(job.pieces)) if (path := job.problems_path(number)).exists()]
    problems = [problem for path in paths for problem in json.loads(path.read_text(encoding="utf-8"))]
    raise DataError(
        problems
        or f"{len(unfinished)} of {len(job.pieces)} pieces are unfinished: a task died (killed, or out of memory). Its "
        f"log is in {job.folder / 'logs'}; give tasks more memory and continue with --resume"
    )


def _forget_problems(job: Job) -> None:
    for number in range(len(job.pieces)):
        job.problems_path(number).unlink(missing_ok=True)


def _fresh_log_folder(logs: Path, num_tasks: int) -> Path:
    """Return a folder without completion marks: old ones may be of other shares, and shards are marked anyway."""
    logs = logs.absolute()
    logs.mkdir(exist_ok=True)
    return logs / f"{num_tasks}-tasks-{len(list(logs.iterdir()))}"
