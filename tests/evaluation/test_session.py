"""Finished tasks are kept: after a kill they are not repeated, and never taken over from another model or options."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.errors import CheckpointError, DataError
from megatron_prealign.evaluation.folder import open_folder
from megatron_prealign.evaluation.frame import Progress
from megatron_prealign.evaluation.session import Session
from megatron_prealign.evaluation.task_list import Task, read_tasks
from tests.evaluation.folders import PROSE, make_folder

TASKS = """
- {{evaluation: perplexity, name: first, texts: {{en: {path}}}}}
- {{evaluation: perplexity, name: second, texts: {{en: {path}}}, window: 8}}
- {{evaluation: perplexity, name: third, texts: {{en: {path}}}, window: {window}}}
"""


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


class Evaluated(list[str]):
    """The names of tasks, as they are run."""

    def __init__(self, killed_at: str | None = None) -> None:
        super().__init__()
        self.killed_at = killed_at

    @contextmanager
    def __call__(self, name: str) -> Iterator[Progress]:
        if name == self.killed_at:
            raise Killed
        self.append(name)
        yield lambda done, total, part="": None


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    (tmp_path / "en.txt").write_text(PROSE[3][:200].replace("\n", " "))
    return make_tasks(tmp_path, 16)


def make_tasks(tmp_path: Path, window: int) -> list[Task]:
    (tmp_path / "tasks.yaml").write_text(TASKS.format(path=tmp_path / "en.txt", window=window))
    problems: list[str] = []
    tasks = read_tasks(str(tmp_path / "tasks.yaml"), problems)
    assert problems == []
    return tasks


def run(tmp_path: Path, tasks: list[Task], evaluated: Evaluated, resume: bool = True) -> dict[str, Any]:
    session = Session(tmp_path / "model", "cpu", tmp_path / "out.json", evaluated)
    return session.run(tasks, lambda results: {"number": len(results["tasks"])}, resume=resume)


def test_finished_tasks_are_not_repeated(tmp_path: Path, tasks: list[Task]) -> None:
    make_folder(tmp_path / "model")
    expected = run(tmp_path, tasks, Evaluated(), resume=False)
    (tmp_path / "out.json").unlink()

    killed = Evaluated("third")
    with pytest.raises(Killed):
        run(tmp_path, tasks, killed)
    assert killed == ["first", "second"]
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.json.partial"]
    session = Session(tmp_path / "model", "cpu", tmp_path / "out.json", killed)
    (problem,) = session.output_problems(resume=False, overwrite=False)
    assert "out.json.partial holds finished tasks: pass --resume to continue, or --overwrite" in problem
    assert session.output_problems(resume=True, overwrite=False) == []

    resumed = Evaluated()
    found = run(tmp_path, tasks, resumed)
    assert resumed == ["third"]
    assert json.loads((tmp_path / "out.json").read_text()) == found
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.json"]
    assert found["number"] == 3
    assert {name: task["results"] for name, task in found["tasks"].items()} == {
        name: task["results"] for name, task in expected["tasks"].items()
    }
    assert {key: value for key, value in found.items() if key != "tasks"} == {
        key: value for key, value in expected.items() if key != "tasks"
    }

    # All are finished: the model is not even loaded. Other options make another task.
    again = Evaluated()
    session = Session(tmp_path / "model", "cpu", tmp_path / "out.json", again)
    session.run(tasks, lambda results: {}, resume=True)
    assert again == []
    assert "folder" not in vars(session)
    run(tmp_path, make_tasks(tmp_path, 17), again)
    assert again == ["third"]

    # Tasks that are not asked for this time stay.
    only = run(tmp_path, make_tasks(tmp_path, 17)[:1], again)
    assert again == ["third"] and set(only["tasks"]) == {task.name for task in tasks}


def test_results_of_another_model_are_refused(tmp_path: Path, tasks: list[Task]) -> None:
    make_folder(tmp_path / "model")
    run(tmp_path, tasks[:1], Evaluated())
    make_folder(tmp_path / "model", initializer_range=0.2)
    with pytest.raises(DataError, match="results of another model than model; pass --overwrite to start over"):
        run(tmp_path, tasks, Evaluated())
    sha256 = json.loads((tmp_path / "out.json").read_text())["model_sha256"]
    make_folder(tmp_path / "model")
    for damaged in ({}, {"tasks": []}, {"tasks": {"first": "done"}}, {"tasks": {"first": {}}, "taps": [], "window": 1}):
        (tmp_path / "out.json.partial").write_text(json.dumps({"model_sha256": sha256} | damaged))
        with pytest.raises(DataError, match=r"out\.json\.partial: not results of an evaluation"):
            run(tmp_path, tasks, Evaluated())
    (tmp_path / "out.json.partial").write_text("{")
    with pytest.raises(DataError, match=r"out\.json\.partial: not results of an evaluation"):
        run(tmp_path, tasks, Evaluated())
    assert run(tmp_path, tasks[:1], Evaluated(), resume=False)["number"] == 1


def test_outputs_that_cannot_be_written_are_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for output in (tmp_path / "folder", tmp_path / "file" / "x.json"):
        session = Session(tmp_path / "model", "cpu", output, Evaluated())
        for overwrite in (False, True):
            (problem,) = session.output_problems(resume=False, overwrite=overwrite)
            assert problem.startswith(f"{output}: can't be written")


def test_weights_that_the_configuration_does_not_know_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match=r"config\.json does not describe these weights: model\.layers\.1\."):
        open_folder(tmp_path / "model")
