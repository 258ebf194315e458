"""Launchers: progress, failures that stop nothing, kills that lose nothing, and Slurm scripts that a fake runs."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from examples.commands import make_step
from examples.paper.experiments import grid
from examples.paper.experiments import run as command_line
from examples.paper.experiments.cells import Cell, read_results, write_result
from examples.paper.experiments.chain import Place
from examples.paper.experiments.grid import Estimate, Grid, read_failures, show_cells
from examples.paper.experiments.slurm import write_chain
from examples.paper.experiments.specs import FOLDER
from examples.steps import Runner, Step
from megatron_prealign.errors import DataError
from tests.examples.paper.experiments.grid_fixtures import make_result, make_results, read, write_experiment
from tools import submit

PERPLEXITY = {"perplexity.clone.perplexity": 300.0}


def fake_cell(cell: Cell, place: Place, runner: Runner) -> Iterator[Step]:
    """Yield one real command instead of a training, which fails for seed 2 of PreAlign."""
    fails = (cell.users[0][1], cell.seed) == ("prealign", 2)
    out = place.output / f"{cell.key}.txt"
    code = "raise SystemExit('error: diverged')" if fails else f"open({str(out)!r}, 'a').write('x')"
    yield make_step(f"train_{cell.key}", ["-c", code], [out])
    write_result(place.results, make_result(cell, PERPLEXITY))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Place, Runner]:
    monkeypatch.setattr(grid, "cell_steps", fake_cell)
    monkeypatch.setattr(grid, "data_steps", lambda cell, place: [])
    console = Console(file=io.StringIO(), width=300)
    return Place(tmp_path / "output", tmp_path / "cells", command="run"), Runner(tmp_path / "output", console)


def shown(runner: Runner) -> str:
    assert isinstance(runner.console.file, io.StringIO)
    return runner.console.file.getvalue()


def test_a_failure_stops_no_other_cell_and_a_second_call_runs_what_is_missing(
    tmp_path: Path, made: tuple[Place, Runner]
) -> None:
    place, runner = made
    _, _, cells = read([write_experiment(tmp_path)])
    first = Grid(cells, {}, place, runner)
    told: list[int] = []
    first.run(2, lambda results: told.append(len(results)))
    assert told == [1, 2, 3, 4, 5]
    assert len(first.results) == 5 and len(first.failed) == 1
    assert "0 of 6 cells are finished already" in shown(runner)
    assert "[4/6] mine prealign seed 2: failed: the step" in shown(runner)
    assert "0 cells left" in shown(runner)
    (failure,) = read_failures(place.results)
    assert (failure["users"], failure["seed"], failure["command"]) == ([["mine", "prealign"]], 2, "run")
    assert "code 1" in failure["reason"]

    second = Grid(cells, read_results(place.results, cells), place, runner)
    second.run(jobs=1)
    assert "5 of 6 cells are finished already" in shown(runner)
    assert {path.read_text() for path in place.output.glob("*.txt")} == {"x"}
    assert len(read_failures(place.results)) == 2


def test_time_left_follows_what_is_measured() -> None:
    _, _, cells = read(["model_size.yaml"], 1)
    guess = Estimate(cells, {}, jobs=2)
    small, base, large = (guess.seconds(cell) for cell in cells[::2])
    assert base == pytest.approx(600)
    assert small < base < large
    assert guess.left(cells) == pytest.approx(sum(map(guess.seconds, cells)) / 2)
    results = {cells[2].key: make_result(cells[2], {}, seconds=300.0)}
    assert Estimate(cells, results, jobs=2).seconds(cells[3]) == pytest.approx(300)


def test_a_dry_run_lists_cells_and_their_state(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    _, _, cells = read([write_experiment(tmp_path)])
    results = make_results(cells[:2], lambda cell, what: 1.0)
    results[cells[1].key].tasks.pop("held_out")
    show_cells(cells, results, 2, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "finished" in text and "lacks held_out" in text
    assert "6 cells, 1 finished; the others take about 25 min with 2 side by side." in text


def test_the_command_line_reports_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_experiment(tmp_path)
    folders = ["--output", str(tmp_path / "o"), "--results", str(tmp_path / "c"), "--report", str(tmp_path / "docs/r")]
    assert command_line.main([str(path), *folders, "--report-only"]) == 0
    assert "0 of 6 cells" in (tmp_path / "docs/r/mine.md").read_text()
    assert (tmp_path / "docs/experiment-log.md").exists()
    for wrong, reason in (
        (["--only-cell", ""], "there is no cell "),
        (["--packages", str(tmp_path / "absent")], "--packages"),
        (["--only-cell", "f00"], "there is no cell f00"),
        (["--scale", "huge"], "there is no scale 'huge'"),
    ):
        assert command_line.main([str(path), *folders, *wrong]) == 2
        assert f"error: {reason}" in capsys.readouterr().err
    for option in ("--seeds", "--jobs"):
        with pytest.raises(SystemExit):
            command_line.main([str(path), *folders, option, "0"])
        assert "must be at least 1" in capsys.readouterr().err
    _, _, cells = read([path])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"{cells[0].key}.json").write_text("{")
    assert command_line.main([str(path), *folders, "--dry-run"]) == 2
    assert f"{cells[0].key}.json: no result of a cell; remove it" in capsys.readouterr().err


def test_a_grid_can_begin_with_another_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_experiment(tmp_path)
    folders = [f"--{name}={tmp_path / name[0]}" for name in ("output", "results", "report")]
    assert command_line.main([str(path), *folders, "--dry-run", "--seeds=2", "--first-seed=3"]) == 0
    shown = capsys.readouterr().out
    _, _, cells = read([path], 4)
    assert [cell.seed for cell in cells if cell.key in shown] == [3, 3, 4, 4]


def test_a_failure_of_any_kind_stops_no_other_cell(
    tmp_path: Path, made: tuple[Place, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(cell: Cell, place: Place, runner: Runner) -> Iterator[Step]:
        if cell.seed == 2:
            raise KeyError("lost")
        yield from fake_cell(cell, place, runner)

    monkeypatch.setattr(grid, "cell_steps", broken)
    _, _, cells = read([write_experiment(tmp_path)])
    first = Grid(cells, {}, *made)
    first.run(2)
    assert len(first.results) == 4 and set(first.failed.values()) == {"KeyError: 'lost'"}


def test_a_page_that_cannot_be_written_is_no_failure_of_the_cell(tmp_path: Path, made: tuple[Place, Runner]) -> None:
    def report(results: object) -> None:
        raise DataError("the log lacks a mark")

    _, _, cells = read([write_experiment(tmp_path)])
    first = Grid(cells, {}, *made)
    with pytest.raises(DataError, match="lacks a mark"):
        first.run(1, report)
    assert first.results and not first.failed


KILLED = """
import sys
sys.path.insert(0, {root!r})
from examples.paper.experiments import grid, run
from examples.paper.experiments.cells import write_result
from examples.commands import make_step
from tests.examples.paper.experiments.grid_fixtures import make_result

def slow_cell(cell, place, runner):
    seconds = 0 if cell.seed == 1 else 60
    out = place.output / f"{{cell.key}}.txt"
    code = f"import os, time; open({{str(out)!r}}, 'w').write(str(os.getpid())); time.sleep({{seconds}})"
    yield make_step(f"train_{{cell.key}}", ["-c", code], [out])
    write_result(place.results, make_result(cell, {{"perplexity.clone.perplexity": 1.0}}))

grid.cell_steps = slow_cell
grid.data_steps = lambda cell, place: []
sys.exit(run.main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_grid_keeps_finished_cells_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(root=str(FOLDER.parents[2])))
    output, results = tmp_path / "output", tmp_path / "cells"
    command = [sys.executable, script, write_experiment(tmp_path), "--output", output, "--results", results]
    process = subprocess.Popen(
        [*map(str, command), "--report", str(tmp_path / "docs/r"), "--jobs", "2"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list(output.glob("*.txt"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 130
        assert "stopped; run the same command to continue from here" in errors
    assert len(list(results.glob("*.json"))) == 2
    assert "2 of 6 cells are finished" in (tmp_path / "docs/r/mine.md").read_text()
    _, _, cells = read([tmp_path / "mine.yaml"])
    assert len(read_results(results, cells)) == 2
    pids = [int(path.read_text()) for path in output.glob("*.txt")]
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that nobody waits for has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


FAKE_SBATCH = """#!/bin/bash
echo "$*" >> {folder}/sbatch.log
script="${{!#}}"
last=$(sed -n 's/^#SBATCH --array=1-\\([0-9]*\\)%.*/\\1/p' "$script")
if [ "$last" ]; then
    for task in $(seq $last); do SLURM_ARRAY_TASK_ID=$task bash "$script" || exit 1; done
else
    bash "$script" || exit 1
fi
echo "$((100 + $(wc -l < {folder}/sbatch.log)));cluster"
"""


def test_a_slurm_array_runs_the_data_then_every_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    for name, content in (("sbatch", FAKE_SBATCH.format(folder=tmp_path)), ("squeue", "#!/bin/sh\n")):
        (tmp_path / "bin" / name).write_text(content)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    _, _, cells = read(["main_table.yaml"], 2)
    listener = tmp_path / "listener.py"
    listener.write_text(
        f"import json, sys\nopen({str(tmp_path / 'calls')!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')"
    )
    command = [str(listener), "my grid.yaml", "--scale", "small"]
    options = ["--partition=gpu", "--gpus-per-node=8"]
    chain = write_chain(cells, tmp_path, command, 4, options)
    assert submit.main([str(chain)]) == 0
    assert capsys.readouterr().out == "data: job 101\ncells: job 102\n"
    data, array = ((chain.parent / f"{name}.sh").read_text() for name in ("data", "cells"))
    assert "#SBATCH --array=1-6%4" in array and "--array" not in data
    assert all("#SBATCH --partition=gpu\n#SBATCH --gpus-per-node=8\n" in text for text in (data, array))
    after = f"--dependency=afterok:101 --kill-on-invalid-dep=yes {chain.parent}/cells.sh"
    assert after in (tmp_path / "sbatch.log").read_text().splitlines()[1]
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert all(call[:3] == ["my grid.yaml", "--scale", "small"] for call in calls)
    assert calls[0][-1] == "--only-data"
    assert [call[-1] for call in calls[1:]] == [cell.key for cell in cells]
    assert all(call[-2] == "--only-cell" and "--no-report" in call for call in calls[1:])
    beyond = {**os.environ, "SLURM_ARRAY_TASK_ID": "7"}
    assert subprocess.run(["bash", chain.parent / "cells.sh"], env=beyond, capture_output=True).returncode != 0
    # What is unfinished, the files of cells say: the same cells again are all run again.
    assert submit.main([str(write_chain(cells, tmp_path, command, 4, options))]) == 0
    assert len((tmp_path / "calls").read_text().splitlines()) == 2 * len(calls)
    assert write_chain(cells[1:], tmp_path, command, 4, options) != chain


def test_a_grid_is_submitted_by_the_tool_for_chains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path)
    arguments = [str(path), "--launcher=slurm", *(f"--{name}={tmp_path / name[0]}" for name in ("output", "results"))]
    assert command_line.main([*arguments, "--no-submit", "--sbatch=--partition=gpu"]) == 0
    (chain,) = tmp_path.glob("o/slurm/*/chain.yaml")
    assert "chain.yaml for 6 cells" in capfd.readouterr().out.replace("\n", "")
    assert "--partition=gpu" in chain.read_text()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_line.main(arguments) == 2
    assert "error: no sbatch here" in capfd.readouterr().err
