import json
import os
from pathlib import Path

import pytest

from megatron_prealign.errors import DataError
from megatron_prealign.files import atomic_file, atomic_folder, atomic_text_file


def test_two_writers_of_one_file_do_not_share_its_temporary_name(tmp_path: Path) -> None:
    # As on two hosts, where the first may have the process number of the second.
    with (
        atomic_file(tmp_path / "out", overwrite=True) as first,
        atomic_file(tmp_path / "out", overwrite=True) as second,
    ):
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "out").read_text() == "first"
    assert os.listdir(tmp_path) == ["out"]


def test_text_file_appears_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    with atomic_text_file(target) as stream:
        stream.write("käse\n")
        assert not target.exists()
    assert target.read_bytes() == "käse\n".encode()
    assert list(tmp_path.iterdir()) == [target]


def test_names_that_are_not_utf8_become_what_json_reads_as_the_same_names(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    with atomic_text_file(tmp_path / "report.json") as stream:
        json.dump([name], stream, ensure_ascii=False)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == [name]


def test_failed_outputs_leave_nothing_and_change_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "old").write_text("old")
    for manager in (atomic_file(tmp_path / "a"), atomic_folder(tmp_path / "b"), atomic_folder(kept, overwrite=True)):
        with pytest.raises(RuntimeError), manager as temporary:
            (temporary / "new" if temporary.is_dir() else temporary).write_text("new")
            raise RuntimeError
    assert list(tmp_path.iterdir()) == [kept]
    assert [file.name for file in kept.iterdir()] == ["old"]


def test_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("first", "second"):
        with atomic_folder(target, overwrite=True) as temporary:
            (temporary / name).write_text(name)
    assert [file.name for file in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_old_folder_comes_back_when_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")
    replace = os.replace

    def refuse(source: Path, destination: Path) -> None:
        if (source / "new").exists():
            raise OSError("no")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"), atomic_folder(target, overwrite=True) as temporary:
        (temporary / "new").write_text("new")
    assert [file.name for file in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_existing_output_and_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(DataError, match="exists; remove it"), atomic_file(tmp_path / "there"):
        pass
    with pytest.raises(DataError, match="exists; remove it"), atomic_folder(tmp_path / "there"):
        pass
    with pytest.raises(DataError, match="does not exist; create"), atomic_file(tmp_path / "no" / "file"):
        pass
    assert (tmp_path / "there").read_text() == "mine"
