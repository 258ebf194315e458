"""tools/plot_run.py on run folders that real training wrote, and what it refuses."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.config.alignment import tap_names
from megatron_prealign.reports.run_page import read_runs
from megatron_prealign.reports.run_plots import plot_retrieval_by_tap
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from tests.workspace import MakeValues
from tools.plot_run import main

NUM_STEPS = 4


def _train(configurations: list[Any]) -> None:
    for values in configurations:
        make_trainer(values).train()


@pytest.fixture(scope="module")
def runs(workspace: Path, make_values: MakeValues, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with align_init/, which was cut off and continued from step 2, and pretrain/."""
    folder = tmp_path_factory.mktemp("runs")
    (workspace / "held_out_plot.tsv").write_text("houses\thäuser\tde\ncats\tkatzen\tde\nq\tñ\tde\n")
    sections: dict[str, Any] = {
        "training": {"eval_interval": 1, "train_steps": NUM_STEPS, "eval_steps": 1},
        "logging": {"log_interval": 1},
        "checkpoint": {"save_interval": 2, "keep_last": 3},
    }
    alignment = {"held_out_lexicon_paths": [str(workspace / "held_out_plot.tsv")]}
    first = make_values("align_init", folder / "align_init", alignment=alignment, **sections)
    second = make_values("pretrain", folder / "pretrain", alignment={"lexicon_paths": []}, **sections)
    run_distributed(_train, 1, [first, second])
    # As if it had been killed before its last checkpoint.
    shutil.rmtree(folder / "align_init" / "checkpoints" / f"step_{NUM_STEPS:07d}")
    run_distributed(_train, 1, [first])
    return folder


def test_the_page_holds_the_curves_of_two_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    arguments = [str(runs / "align_init"), str(runs / "pretrain"), "--output", str(page)]
    assert main(arguments) == 0
    text = page.read_text(encoding="utf-8")
    for heading in (
        "Training loss",
        "Validation loss",
        "Alignment loss by tap",
        "Word retrieval, mean over taps",
        "align_init: retrieval en-de, trained words",
        "align_init: retrieval en-de, held-out words",
        "Optimizer",
        "Speed and memory",
        "Switched and ordinary positions",
    ):
        assert f"<h2>{heading}</h2>" in text, heading
    assert "pretrain: retrieval" not in text
    assert text.count('role="img"') == text.count("<svg") == 9
    assert not re.search(r"<(script|link|img)\b|\bsrc=|url\(http", text)
    assert "stage: align_init" in text

    for measure in (
        "training loss, English",
        "validation loss, switched positions, English",
        "parameter norm",
        "share of time waiting for data",
        "TFLOP/s per rank",
    ):
        assert f"<th scope='row'>{measure}</th>" in text, measure
    memory = [read_runs([runs / name])[0].records[-2]["memory_bytes"] / 2**30 for name in ("align_init", "pretrain")]
    cells = "".join(f"<td>{gibibytes:.2f}</td>" for gibibytes in memory)
    assert f"<th scope='row'>memory of the fullest rank, GiB</th>{cells}" in text

    last = [json.loads(line) for line in (runs / "align_init" / "metrics.jsonl").read_text().splitlines()][-1]
    scores = last["retrieval"]["held_out"]["en-de"]
    cells = "".join(f"<td>{value:.3f}</td>" for value in scores["mean_cosine"])
    assert f"<th scope='row'>mean cosine of pairs</th>{cells}" in text
    assert f"{scores['num_source_words']} source words among" in text

    assert main(arguments) == 2
    assert "page.html: exists; " in capsys.readouterr().err
    page.write_text("old")
    assert main([*arguments, "--overwrite"]) == 0
    assert page.read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_steps_that_were_taken_twice_stand_once(runs: Path) -> None:
    places = [(kind, step) for step in range(1, NUM_STEPS + 1) for kind in ("train", "valid")]
    (run,) = read_runs([runs / "align_init"])
    assert [(record["kind"], record["step"]) for record in run.records] == places
    lines = (runs / "align_init" / "metrics.discarded.jsonl").read_text().splitlines()
    discarded = [json.loads(line) for line in lines]
    assert [(record["kind"], record["step"]) for record in discarded] == places[4:]


def test_each_tap_has_its_curve(runs: Path) -> None:
    (run,) = read_runs([runs / "align_init"])
    assert run.taps == ("embedding", "layer_1", "layer_2", "layer_3", "layer_4")  # tied
    plot, legend = plot_retrieval_by_tap(run, "held_out", "en-de").split('id="legend_1"')
    # Panels of P@1 over all, known and new words, cosine and anisotropy: the first and the last tap's curves.
    curves = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke: #(?:3b82f6|d9730d)', plot)
    assert len(curves) == 5 * 2
    assert all(curve.count("L") == NUM_STEPS - 1 for curve in curves)
    # In the last two panels no two taps are the same.
    assert len(set(curves[-4:])) == 4
    assert legend.count('id="line2d') == len(run.taps)


def test_of_many_taps_some_are_named(runs: Path) -> None:
    (run,) = read_runs([runs / "align_init"])
    valid = [record for record in run.records if record["kind"] == "valid"]
    for record in valid:
        scores = record["retrieval"]["held_out"]["en-de"]
        scores.update({name: (values * 6)[:26] for name, values in scores.items() if isinstance(values, list)})
    deep = replace(run, taps=tuple(tap_names(24, tied=False)), records=tuple(valid))
    legend = plot_retrieval_by_tap(deep, "held_out", "en-de").split('id="legend_1"')[1]
    assert legend.count('id="line2d') == 8  # every fourth of 26, and the last


def test_everything_wrong_is_told_at_once_and_nothing_is_written(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "metrics.jsonl").write_text('{"kind": "train"\n')
    without = tmp_path / "without"
    shutil.copytree(runs / "pretrain", without, ignore=shutil.ignore_patterns("metrics.jsonl", "checkpoints"))
    arguments = [str(tmp_path / "nowhere"), str(broken), str(without), str(without)]
    assert main([*arguments, "--output", str(tmp_path / "none" / "page.html")]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    for problem in (
        "nowhere: no such folder",
        "broken/metrics.jsonl:1: not JSON",
        "broken/config.yaml: ",
        "without/metrics.jsonl: No such file",
        "without: named twice",
        "page.html: its folder does not exist",
    ):
        assert problem in shown, problem
    assert not (tmp_path / "none").exists()
    assert main([*[str(runs / "pretrain")] * 9, "--output", str(tmp_path / "page.html")]) == 2
    assert "9 runs: at most 8" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart_by_their_paths(runs: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        shutil.copytree(runs / "pretrain", tmp_path / folder / "pretrain", ignore=shutil.ignore_patterns("checkpoints"))
    paths = [tmp_path / "a" / "pretrain", tmp_path / "b" / "pretrain", runs / "align_init"]
    assert [run.name for run in read_runs(paths)] == [str(paths[0]), str(paths[1]), "align_init"]
