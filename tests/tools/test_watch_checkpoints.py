"""tools/watch_checkpoints.py: each checkpoint once, also after a kill; what is left out and what is refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import yaml

from megatron_prealign.checkpoint.folder import step_path
from megatron_prealign.evaluation.session import Session
from megatron_prealign.platform import shut_down_distributed
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from tests.workspace import MakeValues
from tools.watch_checkpoints import main, read_results, scores


def _train(values: Any) -> None:
    make_trainer(values).train()


@pytest.fixture(scope="module")
def trained(make_values: MakeValues, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of the steps 2, 4 and 6."""
    run = tmp_path_factory.mktemp("watched") / "run"
    run_distributed(_train, 1, make_values("pretrain", run, checkpoint={"save_interval": 2, "keep_last": 3}))
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def arguments(run: Path, workspace: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "en.jsonl").write_text(json.dumps({"text": "the house and the tree"}) + "\n")
    tasks = [
        {"evaluation": "perplexity", "texts": {"en": str(tmp_path / "en.jsonl"), "de": str(tmp_path / "en.jsonl")}},
        {"evaluation": "word_retrieval", "lexicons": str(workspace / "lexicon.tsv"), "source_language": "en"},
    ]
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(tasks))
    return [str(run), "--tasks", str(tmp_path / "tasks.yaml"), "--output", str(tmp_path / "out")]


@pytest.fixture(autouse=True)
def one_process() -> Any:
    yield
    shut_down_distributed()


def test_each_checkpoint_is_evaluated_once(run: Path, arguments: list[str], tmp_path: Path) -> None:
    late, output = step_path(run, 6), tmp_path / "out"
    shutil.move(late, tmp_path / "late")
    assert main([*arguments, "--patience-minutes", "0"]) == 0
    before = {step: (output / f"{step_path(run, step).name}.json").stat().st_mtime_ns for step in (2, 4)}
    assert list(read_results(output)) == [2, 4]
    shutil.move(tmp_path / "late", late)
    (run / "exit.json").write_text('{"exit_code": 0, "cause": "done"}')
    assert main(arguments) == 0
    # As after a kill between the results of the last checkpoint and the reports.
    (output / f"{late.name}.huggingface").mkdir()
    (output / "results.jsonl").unlink()
    assert main(arguments) == 0
    assert {step: (output / f"{step_path(run, step).name}.json").stat().st_mtime_ns for step in (2, 4)} == before
    table = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert [row["step"] for row in table] == [2, 4, 6]
    bits = [row["tasks"]["perplexity"]["en"]["bits_per_byte"] for row in table]
    assert len(set(bits)) == 3
    page = (output / "results.html").read_text()
    assert "3 checkpoints, the last of step 6" in page
    assert "word_retrieval pairs en-de p_at_1" in page
    assert sorted(path.suffix for path in output.iterdir()) == [".html", ".json", ".json", ".json", ".jsonl"]


def test_an_evaluation_that_was_killed_continues_from_its_export(
    run: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*arguments, "--patience-minutes", "0", "--every", "4"]
    evaluate = Session.run

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "run", killed)
    assert main(arguments) == 130
    assert (tmp_path / "out" / f"{step_path(run, 4).name}.huggingface" / "model.safetensors").exists()
    shutil.rmtree(step_path(run, 4) / "tokenizer")  # a second export would fail
    monkeypatch.setattr(Session, "run", evaluate)
    assert main(arguments) == 0
    assert list(read_results(tmp_path / "out")) == [4]


def test_a_damaged_checkpoint_is_left_out(
    run: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(step_path(run, 2).glob("*.distcp")).unlink()
    assert main([*arguments, "--patience-minutes", "0"]) == 1
    assert "step_0000002 is left out: " in capsys.readouterr().err
    assert list(read_results(tmp_path / "out")) == [4, 6]


class _Hub:
    """Stands in for the Hub's interface; keeps the revisions and names of uploaded files in place of a network."""

    branches: ClassVar[list[tuple[str, str]]] = []
    uploads: ClassVar[list[tuple[str, str, set[str]]]] = []
    is_away = False

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        assert private and exist_ok
        if self.is_away:
            raise ConnectionError("no route to the Hub")

    def create_branch(self, repository: str, *, branch: str, exist_ok: bool) -> None:
        assert exist_ok
        self.branches.append((repository, branch))

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str, revision: str) -> Any:
        assert (repo_id, revision) == self.branches[-1]
        self.uploads.append((repo_id, revision, {path.name for path in folder_path.iterdir()}))
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/{revision}")


def test_each_checkpoint_is_a_revision_on_the_hub(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("megatron_prealign.checkpoint.huggingface.export.HfApi", _Hub)
    monkeypatch.setenv("HF_TOKEN", "of-nobody")
    command = [*arguments, "--patience-minutes", "0", "--push-to-hub", "somebody/model"]
    monkeypatch.setattr(_Hub, "is_away", True)
    assert main([*command, "--every", "6"]) == 1
    assert "is left out: not uploaded to somebody/model: no route to the Hub" in capsys.readouterr().err
    monkeypatch.setattr(_Hub, "is_away", False)
    assert main(command) == 0
    assert list(read_results(tmp_path / "out")) == [2, 4, 6]
    assert [upload[:2] for upload in _Hub.uploads] == [("somebody/model", f"step-{step}") for step in (2, 4, 6)]
    for *_, names in _Hub.uploads:
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    error = capsys.readouterr().err
    assert "uploaded: https://hub/somebody/model/step-4" in error and "of-nobody" not in error
    assert main(command) == 0
    assert len(_Hub.uploads) == 3


def test_uploads_that_can_not_succeed_are_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main([*arguments, "--push-to-hub", "some body/model"]) == 2
    error = capsys.readouterr().err
    assert "--push-to-hub some body/model: " in error and "no token; set HF_TOKEN" in error


def test_what_is_wrong_is_told_before_anything_is_evaluated(
    run: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    tasks = tmp_path / "tasks.yaml"
    good = tasks.read_text()
    tasks.write_text("- {evaluation: perplexity, texts: {en: nowhere.jsonl}}\n- {evaluation: perplxity}\n")
    assert main([*arguments, "--every", "0", "--poll-seconds", "-1"]) == 2
    error = capsys.readouterr().err
    for problem in ("nowhere.jsonl", "unknown evaluation 'perplxity'", "--every 0", "--poll-seconds -1.0"):
        assert problem in error
    assert not output.exists()
    tasks.write_text(good)
    assert main([*arguments, "--patience-minutes", "0", "--every", "6"]) == 0
    tasks.write_text(yaml.safe_dump(yaml.safe_load(good)[:1]))
    assert main([*arguments, "--patience-minutes", "0"]) == 2
    assert "step_0000006.json: results of other tasks than" in capsys.readouterr().err


def test_scores_are_numbers_and_means_over_taps() -> None:
    results = {"pairs": {"en-de": {"p_at_1": [0.5, 1.0, None], "num_pairs": 3, "taps": ["a"]}}, "loss": 2.0}
    assert dict(scores(results)) == {("pairs", "en-de", "p_at_1"): 0.75, ("loss",): 2.0}
