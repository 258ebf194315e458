"""Check before a run that this process may open the files that it will need."""

import resource

from megatron_prealign.errors import ConfigError

# Measured with all groups of a run over gloo, which connects each rank of a group with each other: 74 + 7 a rank, and a
# rank more each on the rank that keeps the store (tests/platform/test_open_files.py). nccl opens no such meshes.
GLOO_FILES_PER_RANK = 8
_OTHERS = 512
"""Of libraries, datasets, checkpoints and loader processes."""


def allow_open_files(backend: str, world_size: int) -> None:
    """Raise this process's limit of open files to what a run of `world_size` ranks needs.

    Raises:
        ConfigError: The system's hard limit is lower.
    """
    needed = _OTHERS + (GLOO_FILES_PER_RANK * world_size if backend == "gloo" else 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{world_size} ranks over {backend} need up to {needed} open files in each process, but the hard limit "
            f"here is {hard}; raise it (`ulimit -Hn`, the limits of the batch system or container)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
