"""The folder of checkpoints of a run: which there are, which is newest, and how one appears at once.

    <run_path>/checkpoints/step_0000600/   megatron-core's torch_dist files, config.yaml, state.json, tokenizer/,
                                           random_states.safetensors, manifest.json
    <run_path>/checkpoints/latest          the name of the newest complete one

A checkpoint is written under a temporary name and renamed when everything in it is on disk; only then
does `latest` move, and only then may older ones go. A run killed at any instant leaves the last
complete checkpoint in place.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_prealign.checkpoint.manifest import MANIFEST, all_problems, quick_problems
from megatron_prealign.errors import CheckpointError
from megatron_prealign.lexicon.output import sync

CHECKPOINTS = "checkpoints"
LATEST = "latest"
STATE = "state.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer"
TEMPORARY = ".tmp"
DAMAGED = ".damaged"
_PREFIX = "step_"
_FINAL = re.compile(rf"{_PREFIX}(\d+)")

Check = Callable[[Path], list[str]]
"""From a checkpoint to what is wrong with it; nothing = it is sound."""


def step_path(run_path: str | Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return Path(run_path) / CHECKPOINTS / f"{_PREFIX}{step:07d}"


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's name says."""
    match = _FINAL.fullmatch(checkpoint.name)
    assert match is not None, checkpoint
    return int(match[1])


def missing_parts(path: Path) -> list[str]:
    """Return which of a checkpoint's necessary files are missing; all that is looked at without verification."""
    return [f"{path / name}: missing" for name in ("metadata.json", STATE, CONFIG) if not (path / name).is_file()]


def check_for(verify: bool, *, quick: bool = False) -> Check:
    """Return what to look at before a checkpoint is used.

    Args:
        verify: compare with the manifest, else see only that the parts are there.
        quick: leave the hashes of large files out.
    """
    if not verify:
        return missing_parts
    return quick_problems if quick else all_problems


def all_checkpoints(run_path: str | Path) -> list[Path]:
    """Return a run's checkpoints under their final names, oldest first, sound or not.

    Raises:
        CheckpointError: There are none but some that were set aside as damaged.
    """
    folder = Path(run_path) / CHECKPOINTS
    found = [path for path in folder.glob(f"{_PREFIX}*") if _FINAL.fullmatch(path.name)]
    if not found and (damaged := sorted(path.name for path in folder.glob(f"{_PREFIX}*{DAMAGED}"))):
        raise CheckpointError(
            f"{folder}: holds nothing but {', '.join(damaged)}, set aside because verification failed; delete the "
            "folder to start afresh, or restore a checkpoint"
        )
    return sorted(found, key=step_of)


def newest_sound(checkpoints: Sequence[Path], check: Check) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint without problems, and a line for each newer one that is passed over.

    Args:
        checkpoints: oldest first.
        check: what is wrong with one.

    Returns:
        The checkpoint, none where there are none; and the lines.

    Raises:
        CheckpointError: None of them is sound; starting afresh would bury them.
    """
    passed_over: list[str] = []
    for path in reversed(checkpoints):
        problems = check(path)
        if not problems:
            return path, passed_over
        passed_over.append(f"{path} is passed over: {'; '.join(problems)}")
    if checkpoints:
        fix = f"{checkpoints[0].parent}: none of its checkpoints can be used; restore one, or delete the folder"
        raise CheckpointError([*passed_over, f"{fix} to start afresh"])
    return None, []


def newest_checkpoint(run_path: str | Path, check: Check = all_problems) -> Path | None:
    """Return a run's newest sound checkpoint, none where it has none yet; warn of newer ones that are not.

    Raises:
        CheckpointError: There are checkpoints, but none is sound.
    """
    newest, passed_over = newest_sound(all_checkpoints(run_path), check)
    for line in passed_over:
        print(f"warning: {line}", file=sys.stderr, flush=True)
    return newest


def resolve_checkpoint(path: str | Path, check: Check = all_problems) -> Path:
    """Return the checkpoint that a step folder or a run folder (its newest sound one) names.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    path = Path(path)
    if (path / STATE).exists() or (path / MANIFEST).exists():
        if problems := check(path):
            raise CheckpointError(problems)
        return path
    newest = newest_checkpoint(path, check) if path.is_dir() else None
    if newest is None:
        raise CheckpointError(
            f"{path}: no checkpoint here; name a run folder (holding {CHECKPOINTS}/) or one of its step folders"
        )
    return newest


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the counters stored in a checkpoint.

    Raises:
        CheckpointError: state.json can't be read.
    """
    try:
        return dict(json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint / STATE}: can't be read ({error}); use another checkpoint") from None


def begin(final: Path) -> Path:
    """Create the empty temporary folder of a checkpoint and return it."""
    temporary = final.with_name(final.name + TEMPORARY)
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    return temporary


def commit(temporary: Path, final: Path, keep_last: int, keep_every: int = 0) -> None:
    """Give a written checkpoint its final name, point `latest` at it and prune older ones.

    Args:
        temporary: folder with all files of the checkpoint.
        final: its name to be.
        keep_last: newest checkpoints kept, this one included.
        keep_every: those of steps divisible by it are kept too; 0 = none.
    """
    for path in temporary.rglob("*"):
        sync(path)
    sync(temporary)
    if final.exists():
        # A run that passed this step before, from an older checkpoint: the newer replaces it.
        replaced = final.with_name(final.name + ".old" + TEMPORARY)
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    temporary.rename(final)
    sync(final.parent)
    point_latest_at(final)
    # What lies beyond this step is of a course that was given up, and no substitute for an older one of this course.
    course = [path for path in all_checkpoints(final.parent.parent) if step_of(path) <= step_of(final)]
    for stale in course[:-keep_last]:
        if keep_every == 0 or step_of(stale) % keep_every:
            # Renamed first: a half-deleted folder must not look like a checkpoint.
            stale.rename(stale.with_name(stale.name + TEMPORARY))
    for leftover in final.parent.glob(f"{_PREFIX}*{TEMPORARY}"):
        shutil.rmtree(leftover, ignore_errors=True)


def point_latest_at(checkpoint: Path) -> None:
    """Write the name of the newest checkpoint into `latest`, at once."""
    write_atomically(checkpoint.parent / LATEST, checkpoint.name + "\n")


def set_aside(checkpoint: Path) -> None:
    """Rename a damaged checkpoint, so that it is kept for a look but never counted again."""
    aside = checkpoint.with_name(checkpoint.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file under a temporary name, sync it, and rename it into place."""
    temporary = path.with_name(path.name + TEMPORARY)
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
