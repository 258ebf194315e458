"""metrics.jsonl: appended to, continued, and what a killed run left of a line."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_prealign.reports.records import METRICS
from megatron_prealign.training.record_file import RecordFile, discarded_path


def _write(folder: Path, after: int, steps: Iterable[int], run: str) -> None:
    records = RecordFile(folder, after)
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
    records = RecordFile(tmp_path, 0)
    records.write({"step": 1, "lm_loss": float("nan"), "tap_loss": {"layer_1": float("inf")}})
    records.close()
    assert (tmp_path / METRICS).read_text() == '{"step":1,"lm_loss":null,"tap_loss":{"layer_1":null}}\n'
