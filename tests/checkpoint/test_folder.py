"""The folder of checkpoints: complete or absent, newest first, nothing lost when a save is cut off."""

from pathlib import Path

import pytest

from megatron_prealign.checkpoint import folder
from megatron_prealign.errors import CheckpointError


def _save(run: Path, step: int, keep_last: int = 2) -> Path:
    final = folder.step_path(run, step)
    temporary = folder.begin(final)
    for name in ("metadata.json", folder.STATE, folder.CONFIG):
        (temporary / name).write_text(f'{{"step": {step}}}')
    folder.commit(temporary, final, keep_last)
    return final


def test_newest_is_found_and_older_ones_are_pruned(tmp_path: Path) -> None:
    paths = [_save(tmp_path, step) for step in (5, 10, 100)]
    assert folder.complete_checkpoints(tmp_path) == paths[1:]
    assert folder.newest_checkpoint(tmp_path) == paths[2]
    assert folder.resolve_checkpoint(tmp_path) == paths[2]
    assert folder.resolve_checkpoint(paths[1]) == paths[1]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_0000100\n"
    assert folder.read_state(paths[2]) == {"step": 100}


def test_a_save_that_was_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    complete = _save(tmp_path, 5)
    temporary = folder.begin(folder.step_path(tmp_path, 10))
    (temporary / "metadata.json").write_text("{}")
    assert folder.newest_checkpoint(tmp_path) == complete
    # The next save of the step starts from an empty folder.
    assert not list(folder.begin(folder.step_path(tmp_path, 10)).iterdir())


def test_leftovers_go_with_the_next_save(tmp_path: Path) -> None:
    folder.begin(folder.step_path(tmp_path, 10))
    _save(tmp_path, 20)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["latest", "step_0000020"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    _save(tmp_path, 5)
    assert _save(tmp_path, 5).is_dir()
    assert len(folder.complete_checkpoints(tmp_path)) == 1


def test_a_run_without_checkpoints_starts_afresh_but_a_damaged_one_does_not(tmp_path: Path) -> None:
    assert folder.newest_checkpoint(tmp_path) is None
    path = _save(tmp_path, 5)
    (path / folder.STATE).unlink()
    with pytest.raises(CheckpointError, match="no checkpoint in it is complete"):
        folder.newest_checkpoint(tmp_path)


def test_nothing_to_resolve(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        folder.resolve_checkpoint(tmp_path / "nowhere")
