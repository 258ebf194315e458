"""The benchmark of GPUs, in its form for CPUs."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import Job, main, make_table, write_table

JOB = Job("ours", "1b", "pretrain", "fp8", "transformer_engine", "cuda", 8, 1024, 12)


@pytest.mark.slow
def test_all_ways_run_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- benchmarks.gpu -->\nold\n<!-- end of benchmarks.gpu -->\nbelow\n", encoding="utf-8")
    sizes = ["--presets", "tiny", "--micro-batch-size", "1", "--seq-length", "16", "--steps", "1"]
    assert main([*sizes, "--device", "cpu", "--write", str(page)]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    found = [(row["way"], row["stage"], row["precision"], row["layers"]) for row in rows]
    assert found == [
        ("ours", "pretrain", "fp32", "local"),
        ("ours", "align_init", "fp32", "local"),
        ("bare", "pretrain", "fp32", "local"),
        ("huggingface", "pretrain", "fp32", "its own"),
    ]
    for row in rows:
        assert row["tokens_per_s"] == pytest.approx(16 / row["step_seconds"])
        assert row["peak_gib"] > 0
        assert (row["mfu"], row["waits"]) == (None, None)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("above\n<!-- benchmarks.gpu -->\nCPU, 1 steps, torch ")
    assert text.endswith("\n<!-- end of benchmarks.gpu -->\nbelow\n")
    assert text.count("| fp32 |") == 4
    assert "old" not in text


def test_a_row_says_what_failed_or_what_it_cost() -> None:
    numbers = {"tokens_per_s": 12345.6, "teraflops": 412.34, "mfu": 0.4171, "peak_gib": 33.333, "waits": 2}
    *_, measured, failed = make_table([(JOB, numbers), (JOB, {"failed": "out of memory"})]).splitlines()
    assert measured == "| ours | 1b | pretrain | fp8 | transformer engine | 12,346 | 412 | 41.7% | 33.33 | 2 |"
    assert failed == "| ours | 1b | pretrain | fp8 | transformer engine | out of memory |  |  |  |  |"


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- benchmarks.gpu -->\nno end\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="lacks the lines <!-- benchmarks"):
        write_table(page, "heading", "table")
    assert page.read_text(encoding="utf-8") == "<!-- benchmarks.gpu -->\nno end\n"
