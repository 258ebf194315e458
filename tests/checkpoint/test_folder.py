"""The folder of checkpoints: whole or absent, the newest sound one is found, nothing is lost when a save is cut off."""

from pathlib import Path

import pytest

from megatron_prealign.checkpoint import folder
from megatron_prealign.checkpoint.manifest import MANIFEST, quick_problems, write_manifest
from megatron_prealign.errors import CheckpointError


def _write(run: Path, step: int) -> Path:
    temporary = folder.begin(folder.step_path(run, step))
    (temporary / folder.TOKENIZER).mkdir()
    for name in ("metadata.json", folder.STATE, folder.CONFIG, "tokenizer/tokenizer.json"):
        (temporary / name).write_text(f'{{"step": {step}}}')
    write_manifest(temporary, {})
    return temporary


def _save(run: Path, step: int, keep_last: int = 2, keep_every: int = 0) -> Path:
    final = folder.step_path(run, step)
    folder.commit(_write(run, step), final, keep_last, keep_every)
    return final


def _steps(run: Path) -> list[int]:
    return [folder.step_of(path) for path in folder.all_checkpoints(run)]


def test_newest_is_found_and_older_ones_are_pruned(tmp_path: Path) -> None:
    paths = [_save(tmp_path, step) for step in (5, 10, 100)]
    assert folder.all_checkpoints(tmp_path) == paths[1:]
    assert folder.newest_checkpoint(tmp_path) == paths[2]
    assert folder.resolve_checkpoint(tmp_path) == paths[2]
    assert folder.resolve_checkpoint(paths[1]) == paths[1]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_0000100\n"
    assert folder.read_state(paths[2]) == {"step": 100}


def test_every_nth_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for step in range(5, 45, 5):
        _save(tmp_path, step, keep_last=3, keep_every=20)
    assert _steps(tmp_path) == [20, 30, 35, 40]


def test_a_save_that_was_cut_off_leaves_the_one_before_and_goes_with_the_next(tmp_path: Path) -> None:
    complete = _save(tmp_path, 5)
    cut_off = _write(tmp_path, 10)
    assert folder.newest_checkpoint(tmp_path) == complete
    # Another name: a rank of the killed run may still be writing there.
    again = folder.begin(folder.step_path(tmp_path, 10))
    assert again != cut_off
    assert not cut_off.exists()
    _save(tmp_path, 20)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "latest",
        "step_0000005",
        "step_0000020",
    ]


@pytest.mark.parametrize("instant", ["rename", "write_atomically", "rmtree"])
def test_killed_at_any_instant_of_the_commit_two_sound_ones_are_there(
    instant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed just before the new name, before `latest` moves, and before what was pruned is deleted."""
    _save(tmp_path, 5)
    _save(tmp_path, 10)
    temporary = _write(tmp_path, 15)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    owner = {"rename": Path, "write_atomically": folder, "rmtree": folder.shutil}[instant]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, instant, stop)
        folder.commit(temporary, folder.step_path(tmp_path, 15), 2)
    assert _steps(tmp_path) == {"rename": [5, 10], "write_atomically": [5, 10, 15], "rmtree": [10, 15]}[instant]
    assert folder.step_of(folder.newest_checkpoint(tmp_path) or tmp_path) == _steps(tmp_path)[-1]
    _save(tmp_path, 20)
    assert folder.all_checkpoints(tmp_path)[-1] == folder.step_path(tmp_path, 20)
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_a_given_up_course_neither_prunes_nor_stands_in_for_the_one_gone_on_from(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        _save(tmp_path, step, keep_last=3)
    # Went on from 5; 10 and 15 are of no use.
    _save(tmp_path, 7)
    assert _steps(tmp_path) == [5, 7, 10, 15]
    _save(tmp_path, 10)
    assert _steps(tmp_path) == [7, 10, 15]


def test_damage_is_found_by_size_and_by_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older, newer = _save(tmp_path, 5), folder.step_path(tmp_path, 10)
    temporary = _write(tmp_path, 10)
    (temporary / "shard").write_bytes(bytes(1 << 17))
    write_manifest(temporary, {})
    folder.commit(temporary, newer, 2)
    small, large = newer / "tokenizer" / "tokenizer.json", newer / "shard"
    for file, content in ((small, b'{"step": 11}'), (large, bytes((1 << 17) - 1) + b"1")):
        sound = file.read_bytes()
        file.write_bytes(content)
        assert bool(quick_problems(newer)) == (file is small)
        assert folder.newest_checkpoint(tmp_path) == older
        error = capsys.readouterr().err
        assert f"WARNING: skipping {newer}: {file}: its content does not match the hash" in error
        assert f"WARNING: using the one before it: {older}" in error
        with pytest.raises(CheckpointError, match="does not match the hash in the manifest"):
            folder.resolve_checkpoint(newer)
        file.write_bytes(content[:-1])
        assert quick_problems(newer) == [f"{file}: {len(sound) - 1} bytes, but the manifest says {len(sound)}"]
        file.write_bytes(sound)
    assert folder.newest_checkpoint(tmp_path) == newer
    (newer / MANIFEST).write_text((newer / MANIFEST).read_text().replace('"size": 12', '"size": 2', 1))
    assert folder.newest_checkpoint(tmp_path) == older
    assert "manifest.json: its content does not match its own hash; it was edited or damaged" in capsys.readouterr().err


def test_what_is_damaged_or_not_ours_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = [_save(tmp_path, step, keep_last=3) for step in (5, 8)]
    damaged, foreign = _save(tmp_path, 12, keep_last=3), folder.step_path(tmp_path, 14)
    (damaged / folder.CONFIG).write_text("other")
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    newest = folder.newest_checkpoint(tmp_path)
    assert newest == sound[-1]
    folder.set_aside(tmp_path, newest)
    assert f"WARNING: renamed {damaged} to {damaged.name}.damaged-" in capsys.readouterr().err
    assert folder.all_checkpoints(tmp_path) == sound
    _save(tmp_path, 14)
    assert _steps(tmp_path) == [8, 14]
    (kept,) = foreign.parent.glob("step_0000014.damaged-*")
    assert (kept / "thesis.txt").read_text() == "years of work"
    assert len([*foreign.parent.glob("step_0000012.damaged-*")]) == 1


def test_ranks_leave_the_shards_to_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older, newer = _save(tmp_path, 5), folder.step_path(tmp_path, 10)
    temporary = _write(tmp_path, 10)
    (temporary / "__0_0.distcp").write_bytes(b"weights")
    write_manifest(temporary, {})
    folder.commit(temporary, newer, 2)
    (newer / "__0_0.distcp").write_bytes(b"weight")
    for rank, found in (("0", older), ("1", newer)):
        monkeypatch.setenv("RANK", rank)
        assert folder.newest_checkpoint(tmp_path, folder.check_for(verify=True)) == found
    (newer / folder.CONFIG).write_text("other")
    assert folder.newest_checkpoint(tmp_path, folder.check_for(verify=True)) == older


def test_without_a_manifest_a_checkpoint_is_used_only_if_told(tmp_path: Path) -> None:
    path = _save(tmp_path, 5)
    (path / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"manifest.json: missing, so .* pass --checkpoint.verify false"):
        folder.newest_checkpoint(tmp_path)
    assert folder.newest_checkpoint(tmp_path, folder.check_for(verify=False)) == path
    (path / folder.CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"config.yaml: missing"):
        folder.newest_checkpoint(tmp_path, folder.check_for(verify=False))


def test_a_run_without_checkpoints_starts_afresh_but_one_whose_are_all_damaged_does_not(tmp_path: Path) -> None:
    assert folder.newest_checkpoint(tmp_path) is None
    for step in (5, 10):
        (_save(tmp_path, step) / folder.STATE).unlink()
    with pytest.raises(CheckpointError, match="no usable checkpoint is left, and a run") as caught:
        folder.newest_checkpoint(tmp_path)
    assert [f"step_{step:07d}" in problem for step, problem in zip((10, 5), caught.value.problems, strict=False)]


def test_a_file_that_another_host_wrote_elsewhere_is_missed(tmp_path: Path) -> None:
    temporary = folder.begin(folder.step_path(tmp_path, 5))
    with pytest.raises(CheckpointError, match=r"__1_0.distcp not visible on host .* disk that all hosts share"):
        write_manifest(temporary, {"__1_0.distcp": {"sha256": "", "size": 3}})


def test_nothing_to_resolve(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        folder.resolve_checkpoint(tmp_path / "nowhere")
