"""The folder of checkpoints of a run: which there are, which is newest, and how one appears at once.

    <run_path>/checkpoints/step_0000600/   megatron-core's torch_dist files, config.yaml, state.json, tokenizer/
    <run_path>/checkpoints/latest          the name of the newest complete one

A checkpoint is written under a temporary name and renamed when everything in it is on disk; only then
does `latest` move, and only then may older ones go. A run killed at any instant leaves the last
complete checkpoint in place.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from megatron_prealign.errors import CheckpointError
from megatron_prealign.lexicon.output import sync

CHECKPOINTS = "checkpoints"
LATEST = "latest"
STATE = "state.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer"
TEMPORARY = ".tmp"
_PREFIX = "step_"


def step_path(run_path: str | Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return Path(run_path) / CHECKPOINTS / f"{_PREFIX}{step:07d}"


def is_complete(path: Path) -> bool:
    """Tell whether a folder is a complete checkpoint under its final name."""
    return path.suffix != TEMPORARY and all((path / name).is_file() for name in ("metadata.json", STATE, CONFIG))


def complete_checkpoints(run_path: str | Path) -> list[Path]:
    """Return a run's complete checkpoints, oldest first."""
    return sorted(path for path in (Path(run_path) / CHECKPOINTS).glob(f"{_PREFIX}*") if is_complete(path))


def newest_checkpoint(run_path: str | Path) -> Path | None:
    """Return a run's newest complete checkpoint, none where the run has no checkpoint folder yet.

    Raises:
        CheckpointError: There are checkpoints, but none is complete; starting afresh would bury them.
    """
    complete = complete_checkpoints(run_path)
    if complete:
        return complete[-1]
    found = [path for path in (Path(run_path) / CHECKPOINTS).glob(f"{_PREFIX}*") if path.suffix != TEMPORARY]
    if found:
        raise CheckpointError(
            f"{found[0].parent}: no checkpoint in it is complete; delete the folder to start afresh, or restore one"
        )
    return None


def resolve_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that a step folder or a run folder (its newest) names.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(path)
    if is_complete(path):
        return path
    newest = newest_checkpoint(path) if path.is_dir() else None
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
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / STATE}: can't be read ({error}); use another checkpoint") from None
    return dict(state)


def begin(final: Path) -> Path:
    """Create the empty temporary folder of a checkpoint and return it."""
    temporary = final.with_name(final.name + TEMPORARY)
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    return temporary


def commit(temporary: Path, final: Path, keep_last: int) -> None:
    """Give a written checkpoint its final name, point `latest` at it and prune older ones."""
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
    write_atomically(final.parent / LATEST, final.name + "\n")
    run_path = final.parent.parent
    for stale in complete_checkpoints(run_path)[:-keep_last]:
        # Renamed first: a half-deleted folder must not look like a checkpoint.
        stale.rename(stale.with_name(stale.name + TEMPORARY))
    for leftover in final.parent.glob(f"{_PREFIX}*{TEMPORARY}"):
        shutil.rmtree(leftover, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file under a temporary name, sync it, and rename it into place."""
    temporary = path.with_name(path.name + TEMPORARY)
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
