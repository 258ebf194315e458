"""Records of a run: what is no record, curves out of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.reports.records import read_records, series


def train(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {"kind": "train", "stage": "pretrain", "step": step, "tokens": 100 * step, "lm_loss": loss}


def valid(step: int, **content: Any) -> dict[str, Any]:
    return {"kind": "valid", "stage": "pretrain", "step": step, "tokens": 100 * step, **content}


def test_every_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    lines = [json.dumps(train(1)), '{"kind": "train", "st', "", "[1]", json.dumps({**train(2), "kind": "test"})]
    lines += [json.dumps({**train(3), "step": 1.5, "tokens": -1}), json.dumps({**train(4), "stage": None}), "NaN"]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(lines) + "\n")
    problems: list[str] = []
    assert read_records(path, problems) == [train(1)]
    assert [problem.split(";")[0].removeprefix(f"{path}:") for problem in problems] == [
        "2: not JSON (Unterminated string starting at)",
        "3: not JSON (Expecting value)",
        "4: not a JSON object",
        "5: its kind is 'test', not train or valid",
        "6: not a whole number of at least 0: step and tokens",
        "7: it has no stage",
        "8: not a JSON object",
    ]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"", ": empty"), (b"\xff\xfe", "not UTF-8 text")]
)
def test_a_file_without_records_is_a_problem(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content)
    problems: list[str] = []
    assert read_records(path, problems) == []
    assert len(problems) == 1
    assert problems[0].startswith(str(path))
    assert reason in problems[0]


def test_a_last_line_that_is_not_whole_yet_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(train(1)) + '\n{"kind": "train", "st')
    problems: list[str] = []
    assert read_records(path, problems) == [train(1)]
    assert not problems


def test_series_follow_one_measure() -> None:
    scores = {"p_at_1": [0.0, 0.5, None], "p_at_1_new": [None, None, None]}
    records = [train(1, 8.0), valid(1, loss={"en": 4.0}), train(2, 7.0), valid(2, retrieval={"held_out": scores})]
    assert series(records, "train", "lm_loss") == ([1, 2], [8.0, 7.0])
    assert series(records, "train", "lm_loss", axis="tokens") == ([100, 200], [8.0, 7.0])
    assert series(records, "valid", "loss", "en") == ([1], [4.0])
    assert series(records, "valid", "loss", "de") == ([], [])
    assert series(records, "valid", "retrieval", "held_out", "p_at_1", 1) == ([2], [0.5])
    assert series(records, "valid", "retrieval", "held_out", "p_at_1", 2) == ([], [])
    assert series(records, "valid", "retrieval", "held_out", "p_at_1") == ([2], [0.25])
    assert series(records, "valid", "retrieval", "held_out", "p_at_1_new") == ([], [])
