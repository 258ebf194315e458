"""Which checkpoint a run starts from, agreed on by all its ranks, who share the reading that it takes."""

from pathlib import Path

import torch

from megatron_prealign.checkpoint import folder
from megatron_prealign.checkpoint.manifest import hash_problems
from megatron_prealign.platform.agreement import from_all_ranks, on_first_rank


def agree_on_checkpoint(path: str | Path, verify: bool) -> Path | None:
    """Return the newest sound checkpoint of a run folder, a step folder itself, None if there is none; collective.

    Args:
        path: run folder or step folder.
        verify: compare every file's hash with the manifest; each rank reads a share.

    Raises:
        CheckpointError: There are checkpoints, but none is sound.
        PrealignError: The same, found by rank 0.
    """
    candidates = on_first_rank(lambda: _candidates(Path(path), folder.check_for(verify)))
    return folder.newest_sound(candidates, _hash_problems_of_all if verify else lambda _: [])


def _candidates(path: Path, check: folder.Check) -> list[Path]:
    """Return what is sound at a first glance, oldest first; what is not, has been warned of before a rank started."""
    if folder.is_checkpoint(path):
        return [folder.resolve_checkpoint(path, check)]
    checkpoints = folder.all_checkpoints(path)
    sound = [checkpoint for checkpoint in checkpoints if not check(checkpoint)]
    if not sound:
        folder.newest_sound(checkpoints, check)  # raises where there are some
    return sound


def _hash_problems_of_all(checkpoint: Path) -> list[str]:
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = from_all_ranks(hash_problems(checkpoint, rank, world_size))
    return [problem for problems in found for problem in problems]
