"""The checkpoints of a run: which exist, which one a run starts from, how one is added, and the disk space they need.

    <run_path>/checkpoints/step_0000600/   megatron-core's torch_dist files, config.yaml, state.json,
                                           layout.json, tokenizer/, manifest.json
    <run_path>/checkpoints/latest          the name of the newest complete one

A checkpoint is written under a temporary name and renamed when all of it is on disk; only then does `latest` move, and
only then are older ones deleted. A run killed at any point keeps its last complete checkpoint.
"""

import json
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from megatron_prealign.checkpoint.manifest import MANIFEST, all_problems, hash_problems, quick_problems
from megatron_prealign.config import Config
from megatron_prealign.config.counts import count_parameters, saved_by_muon
from megatron_prealign.errors import CheckpointError
from megatron_prealign.files import leftovers, sync, write_atomically
from megatron_prealign.ranks import is_first

CHECKPOINTS = "checkpoints"
LATEST = "latest"
STATE = "state.json"
LAYOUT = "layout.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer"
TEMPORARY = ".tmp"
_PREFIX = "step_"
_FINAL = re.compile(rf"{_PREFIX}(\d+)")
# Two moments and, unless the weights are fp32 and the optimizer uses them directly, main weights; all in fp32.
_MOMENT_BYTES = 8
_MAIN_BYTES = 4
_OVERHEAD_BYTES = 1 << 20

Check = Callable[[Path], list[str]]
"""From a checkpoint to its problems; empty if it is sound."""


def step_path(run_path: str | Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return Path(run_path) / CHECKPOINTS / f"{_PREFIX}{step:07d}"


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name."""
    match = _FINAL.fullmatch(checkpoint.name)
    assert match is not None, checkpoint
    return int(match[1])


def check_for(verify: bool) -> Check:
    """Return the check made before a checkpoint is opened: sizes against its manifest, or only that files exist."""
    if not verify:
        return lambda path: [
            f"{path / name}: missing" for name in ("metadata.json", STATE, CONFIG) if not (path / name).is_file()
        ]
    # Only rank 0 asks for the size of every shard: thousands of ranks would overload the file system.
    return partial(quick_problems, with_shards=is_first())


def all_checkpoints(run_path: str | Path) -> list[Path]:
    """Return a run's checkpoints under their final names, oldest first, sound or not."""
    found = [path for path in (Path(run_path) / CHECKPOINTS).glob(f"{_PREFIX}*") if _FINAL.fullmatch(path.name)]
    return sorted(found, key=step_of)


def _newest_sound(checkpoints: Sequence[Path], check: Check) -> Path | None:
    """Return the newest sound one of checkpoints, oldest first, None if there are none; rank 0 warns of damaged ones.

    Raises:
        CheckpointError: None of them is sound. A run must not start over in a folder with damaged ones.
    """
    skipped: list[str] = []
    for path in reversed(checkpoints):
        problems = check(path)
        if not problems:
            if skipped and is_first():
                lines = [*skipped, f"using the one before it: {path}"]
                print("\n".join(f"WARNING: {line}" for line in lines), file=sys.stderr, flush=True)
            return path
        skipped.append(f"skipping {path}: {'; '.join(problems)}")
    if skipped:
        fix = (
            "no usable checkpoint is left, and a run does not start over in a folder with damaged ones: restore "
            "one, or move them away"
        )
        raise CheckpointError([*skipped, fix])
    return None


def newest_checkpoint(run_path: str | Path, check: Check = all_problems) -> Path | None:
    """Return a run's newest sound checkpoint, None if it has no checkpoint yet; warn of newer, damaged ones.

    Raises:
        CheckpointError: There are checkpoints, but none is sound.
    """
    return _newest_sound(all_checkpoints(run_path), check)


def resolve_checkpoint(path: str | Path, check: Check = all_problems) -> Path:
    """Return the checkpoint that a step folder or a run folder (its newest sound one) names.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    path = Path(path)
    if is_checkpoint(path):
        if problems := check(path):
            raise CheckpointError(problems)
        return path
    newest = newest_checkpoint(path, check) if path.is_dir() else None
    if newest is None:
        raise CheckpointError(
            f"{path}: no checkpoint here; name a run folder (holding {CHECKPOINTS}/) or one of its step folders"
        )
    return newest


def agree_on_checkpoint(path: str | Path, verify: bool) -> Path | None:
    """Return the newest sound checkpoint of a run folder, or a step folder itself; None if there is none; collective.

    With `verify` each rank compares the hashes of a share of the files with the manifest.

    Raises:
        PrealignError: There are checkpoints, but none is sound.
    """
    from megatron_prealign.platform.agreement import on_first_rank  # deferred: reports look at folders without torch

    candidates = on_first_rank(lambda: _candidates(Path(path), check_for(verify)))
    return _newest_sound(candidates, _hash_problems_of_all if verify else lambda _: [])


def _candidates(path: Path, check: Check) -> list[Path]:
    """Return the checkpoints that pass a quick check, oldest first; the plan of the run has warned of the others."""
    if is_checkpoint(path):
        return [resolve_checkpoint(path, check)]
    checkpoints = all_checkpoints(path)
    sound = [checkpoint for checkpoint in checkpoints if not check(checkpoint)]
    if not sound:
        _newest_sound(checkpoints, check)  # raises if there are any
    return sound


def _hash_problems_of_all(checkpoint: Path) -> list[str]:
    import torch

    from megatron_prealign.platform.agreement import from_all_ranks

    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = from_all_ranks(hash_problems(checkpoint, rank, world_size))
    return [problem for problems in found for problem in problems]


def is_checkpoint(path: Path) -> bool:
    """Tell a checkpoint, sound or damaged, from a run folder."""
    return (path / STATE).exists() or (path / MANIFEST).exists()


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the counters stored in a checkpoint.

    Raises:
        CheckpointError: state.json can't be read.
    """
    return read_json(checkpoint / STATE)


def read_json(path: Path) -> dict[str, Any]:
    """Read one of a checkpoint's JSON files.

    Raises:
        CheckpointError: It can't be read, or is not a mapping.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"expected a mapping, found {content!r:.40}")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: can't be read ({error}); use another checkpoint") from None
    return content


def begin(final: Path) -> Path:
    """Create the empty temporary folder of a checkpoint and return it; delete what earlier saves left first.

    Leftovers may be what fills the disk. The name is new each time, so that a rank of a killed run that is still
    writing can't write into it.
    """
    sweep(final.parent)
    temporary = final.with_name(f"{final.name}.{secrets.token_hex(4)}{TEMPORARY}")
    temporary.mkdir(parents=True)
    return temporary


def commit(temporary: Path, final: Path, keep_last: int, keep_every: int = 0) -> None:
    """Give a checkpoint that is complete and on disk its final name, point `latest` at it and delete older ones.

    Args:
        temporary: folder with all files of the checkpoint, manifest included.
        final: its final path.
        keep_last: newest checkpoints kept, this one included.
        keep_every: those of steps divisible by it are kept too; 0 = none.
    """
    if final.exists():
        # The run resumed from an earlier step, so this one is damaged or abandoned.
        final.rename(final.with_name(final.name + ".old" + TEMPORARY))
    temporary.rename(final)
    sync(final.parent)
    write_atomically(final.parent / LATEST, final.name + "\n")
    # Later steps belong to a course that was abandoned; they do not replace older checkpoints of this one.
    course = [path for path in all_checkpoints(final.parent.parent) if step_of(path) <= step_of(final)]
    for stale in course[:-keep_last]:
        if keep_every == 0 or step_of(stale) % keep_every:
            # Renamed first: a half-deleted folder must not look like a checkpoint.
            stale.rename(stale.with_name(stale.name + TEMPORARY))
    sweep(final.parent)


def set_aside(run_path: str | Path, newest: Path) -> None:
    """Rename checkpoints newer than the one a run resumes from; they no longer count, and are never deleted."""
    for path in all_checkpoints(run_path):
        if step_of(path) > step_of(newest):
            aside = path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}")
            path.rename(aside)
            print(f"WARNING: renamed {path} to {aside.name}", file=sys.stderr, flush=True)


def sweep(checkpoints: Path) -> None:
    """Delete what interrupted saves and deletions left."""
    for leftover in checkpoints.glob(f"{_PREFIX}*{TEMPORARY}"):
        shutil.rmtree(leftover, ignore_errors=True)
    for file in leftovers(checkpoints / LATEST):
        file.unlink(missing_ok=True)


def checkpoint_bytes(config: Config) -> int:
    """Return the approximate size of a checkpoint of a resolved configuration: weights and optimizer, in bytes."""
    assert config.model.vocab_size is not None
    parameters = count_parameters(config.model, config.model.vocab_size)
    weight_bytes = 4 if config.training.precision == "fp32" else 2
    has_main = config.parallel.use_distributed_optimizer or weight_bytes == 2
    per_parameter = weight_bytes + _MOMENT_BYTES + (_MAIN_BYTES if has_main else 0)
    return parameters * per_parameter - saved_by_muon(config) + _OVERHEAD_BYTES


def room_problems(config: Config) -> list[str]:
    """Return a problem if the disk lacks room for the checkpoints that the run keeps plus the one being written."""
    run = Path(config.training.run_path).absolute()
    folder = run / CHECKPOINTS
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    each, keep_last = checkpoint_bytes(config), config.checkpoint.keep_last
    num_missing = max(keep_last + 1 - len(all_checkpoints(run)), 1)
    free = shutil.disk_usage(existing).free
    if free >= num_missing * each:
        return []
    return [
        f"training.run_path {config.training.run_path}: {decimal(free)} are free, but {num_missing} more "
        f"checkpoints of about {decimal(each)} must fit (checkpoint.keep_last {keep_last} and the one being written); "
        "make room, or name another folder"
    ]
