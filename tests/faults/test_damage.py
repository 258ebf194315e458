"""A truncated or bit-flipped shard in the newest checkpoint: found, and the one before is used, loudly."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_prealign.checkpoint import folder
from tests.faults.conftest import MakeRun, Undisturbed
from tests.faults.runs import NUM_STEPS, Run, read_records


def _flip(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 16
    shard.write_bytes(content)


def _truncate(shard: Path) -> None:
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)


DAMAGES = {
    "flip": (_flip, "its content does not match the hash"),
    "truncate": (_truncate, "bytes, but the manifest says "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_is_used_loudly(
    damage: str, make_run: MakeRun, undisturbed: Callable[[str, str], Undisturbed], tmp_path: Path
) -> None:
    whole = undisturbed("pretrain", "tp2")
    values = make_run("pretrain", "tp2", tmp_path / "run")
    shutil.copytree(whole.path, tmp_path / "run")
    before, newest = folder.all_checkpoints(tmp_path / "run")
    shard = newest / "__1_0.distcp"
    break_it, complaint = DAMAGES[damage]
    break_it(shard)
    run = Run.start(values)
    assert run.wait() == [0, 0], run.log
    warning = next(line for line in run.log.splitlines() if line.startswith("WARNING: "))
    assert warning.startswith(f"WARNING: skipping {newest}: {shard}: ")
    assert complaint in warning
    assert f"WARNING: using the one before it: {before}" in run.log
    assert read_records(run.path) == whole.records
    assert folder.newest_checkpoint(run.path) == folder.step_path(run.path, NUM_STEPS)
    # Set aside, so that it does not count among those that are kept.
    (aside,) = (run.path / "checkpoints").glob("*.damaged-*")
    assert aside.name.startswith(newest.name)
    assert (aside / shard.name).is_file()


def test_nothing_is_started_afresh_over_damaged_checkpoints(
    make_run: MakeRun, undisturbed: Callable[[str, str], Undisturbed], tmp_path: Path
) -> None:
    shutil.copytree(undisturbed("pretrain", "tp2").path, tmp_path / "run")
    checkpoints = folder.all_checkpoints(tmp_path / "run")
    for checkpoint in checkpoints:
        _flip(checkpoint / "__0_0.distcp")
    records = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    run = Run.start(make_run("pretrain", "tp2", tmp_path / "run"))
    assert run.wait() == [2, 2]
    error = run.log[run.log.index("error: ") :]
    assert all(f"skipping {checkpoint}: " in error for checkpoint in checkpoints)
    assert "no usable checkpoint is left, and a run does not start over in a folder with damaged ones" in error
    assert folder.all_checkpoints(tmp_path / "run") == checkpoints
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == records


@pytest.mark.parametrize("content", [b"no pickle", None])
def test_a_damaged_table_of_contents_is_one_error_where_nothing_is_verified(
    content: bytes | None, make_run: MakeRun, undisturbed: Callable[[str, str], Undisturbed], tmp_path: Path
) -> None:
    values = make_run("pretrain", "tp2", tmp_path / "run")
    values["checkpoint"]["verify"] = False
    shutil.copytree(undisturbed("pretrain", "tp2").path, tmp_path / "run")
    contents = folder.all_checkpoints(tmp_path / "run")[-1] / ".metadata"
    contents.unlink()
    if content is not None:
        contents.write_bytes(content)
    run = Run.start(values)
    assert run.wait() == [2, 2], run.log
    assert f"error: {contents}: " in run.log
    assert "Traceback" not in run.log
