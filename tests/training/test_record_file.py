"""metrics.jsonl: appended to, continued, and what a killed run left of a line."""

import contextlib
import json
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.reports.records import METRICS
from megatron_prealign.training.record_file import RecordFile, discarded_path


def _write(folder: Path, after: int, steps: Iterable[int], run: str) -> None:
    records = RecordFile(folder / METRICS, after, print)
    for step in steps:
        for kind in ("train", "valid"):
            records.write({"kind": kind, "step": step, "run": run})
    records.close()


def _read(path: Path) -> list[tuple[str, int, str]]:
    found: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [(record["kind"], record["step"], record["run"]) for record in found]


def _both(steps: Iterable[int], run: str) -> list[tuple[str, int, str]]:
    return [(kind, step, run) for step in steps for kind in ("train", "valid")]


def test_a_continued_run_appends(tmp_path: Path) -> None:
    _write(tmp_path, 0, [5, 10], "a")
    _write(tmp_path, 10, [15], "b")
    assert _read(tmp_path / METRICS) == _both([5, 10], "a") + _both([15], "b")
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]


def test_records_behind_the_resumed_step_move_away(tmp_path: Path) -> None:
    _write(tmp_path, 0, [5, 10, 15, 20], "a")
    _write(tmp_path, 12, [15], "b")
    assert _read(tmp_path / METRICS) == _both([5, 10], "a") + _both([15], "b")
    assert _read(discarded_path(tmp_path / METRICS)) == _both([15, 20], "a")
    _write(tmp_path, 10, [15], "c")
    assert _read(tmp_path / METRICS) == _both([5, 10], "a") + _both([15], "c")
    assert _read(discarded_path(tmp_path / METRICS)) == _both([15, 20], "a") + _both([15], "b")


def test_half_a_line_of_a_killed_run_moves_away(tmp_path: Path) -> None:
    _write(tmp_path, 0, [5], "a")
    # The second is whole but for its end of line, behind which the next record would stand.
    for half in ('{"kind": "train", "step": 1', '{"kind": "train", "step": 7, "run": "a"}'):
        with (tmp_path / METRICS).open("a") as stream:
            stream.write(half)
        _write(tmp_path, 8, [], "b")
        assert _read(tmp_path / METRICS) == _both([5], "a")
        assert discarded_path(tmp_path / METRICS).read_text().splitlines()[-1] == half
    _write(tmp_path, 8, [10], "b")
    assert _read(tmp_path / METRICS) == _both([5], "a") + _both([10], "b")


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / METRICS, 0, print)
    records.write({"step": 1, "lm_loss": float("nan"), "tap_loss": {"layer_1": float("inf")}})
    records.close()
    assert (tmp_path / METRICS).read_text() == '{"step":1,"lm_loss":null,"tap_loss":{"layer_1":null}}\n'


@contextlib.contextmanager
def _disk_that_holds(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: what goes beyond is a short write, then an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("sync_each", [False, True])
def test_records_that_the_disk_does_not_take_are_lost_and_said(tmp_path: Path, sync_each: bool) -> None:
    said: list[str] = []
    records = RecordFile(tmp_path / METRICS, 0, said.append, sync_each=sync_each)
    lines = [{"kind": "train", "step": step, "run": "a"} for step in range(1, 8)]
    records.write(lines[0])
    size = (tmp_path / METRICS).stat().st_size
    # Half of the next line finds room.
    with _disk_that_holds(size + size // 2):
        for line in lines[1:4]:
            records.write(line)
        # Whoever reads it now, or goes on after a kill, finds whole lines.
        assert (tmp_path / METRICS).stat().st_size == size
    assert len(said) == 1 and said[0].startswith(f"WARNING: {tmp_path / METRICS} can't be written (")
    records.write(lines[4])
    assert said[1:] == [f"{tmp_path / METRICS}: can be written again; records missing in it: 3"]
    records.write(lines[5])
    with _disk_that_holds(0):
        records.write(lines[6])
    records.close()
    assert len(said) == 4
    assert said[3] == f"{tmp_path / METRICS}: records missing at its end: 1"
    assert [json.loads(line)["step"] for line in (tmp_path / METRICS).read_text().splitlines()] == [1, 5, 6]


def test_a_run_that_begins_on_a_full_disk_takes_its_later_records_back_when_it_can(tmp_path: Path) -> None:
    _write(tmp_path, 0, [5, 10, 15], "a")
    before, said = (tmp_path / METRICS).read_bytes(), []
    with _disk_that_holds(10):
        records = RecordFile(tmp_path / METRICS, 12, said.append)
        records.write({"kind": "train", "step": 13, "run": "b"})
        assert (tmp_path / METRICS).read_bytes() == before
        assert discarded_path(tmp_path / METRICS).read_bytes() == b""
    records.write({"kind": "train", "step": 14, "run": "b"})
    records.close()
    assert _read(tmp_path / METRICS) == [*_both([5, 10], "a"), ("train", 14, "b")]
    assert _read(discarded_path(tmp_path / METRICS)) == _both([15], "a")
    assert len(said) == 2
