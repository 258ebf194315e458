"""What a run leaves for people to see: records, trackers, traces; and that nothing of it stops a run."""

import contextlib
import gzip
import io
import json
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.config.alignment import tap_names
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from tests.workspace import MakeValues

NUM_STEPS = 4
REPOSITORY = Path(__file__).parents[2]
FIELD = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
INSTALLED = {name: find_spec(name) is not None for name in ("wandb", "mlflow")}
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
# Nobody listens at port 9; what the libraries wait for by default is minutes.
AWAY = {
    "WANDB_BASE_URL": "http://127.0.0.1:9",
    "WANDB_API_KEY": "0" * 40,
    "WANDB_SILENT": "true",
    "WANDB_INIT_TIMEOUT": "0.5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


def _needs(package: str) -> None:
    if not INSTALLED[package]:
        pytest.skip(f"{package} is not installed: pip install 'megatron-prealign[logging]'")


def _train(environment: dict[str, str], configurations: list[Any]) -> str:
    """Train each run, and return what was shown."""
    os.environ.update(environment)
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        for values in configurations:
            trainer = make_trainer(values)
            trainer.throughput.peak_flops = 1e12  # as on a GPU that is known
            trainer.train()
    return shown.getvalue()


def _trackers(mlflow_uri: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"log_interval": 1, "tensorboard": True}
    if INSTALLED["wandb"]:
        fields["wandb_project"] = "tests"
    if INSTALLED["mlflow"]:
        fields |= {"mlflow_experiment": "tests", "mlflow_tracking_uri": mlflow_uri}
    return fields


@pytest.fixture(scope="module")
def runs(
    workspace: Path,
    make_values: MakeValues,
    two_languages: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with align_init/ and pretrain/; the second was cut off and continued from step 2."""
    folder = tmp_path_factory.mktemp("monitored")
    held_out = workspace / "held_out_monitoring.tsv"
    held_out.write_text("houses\thäuser\tde\ncats\tkatzen\tde\nq\tñ\tde\n")
    sections: dict[str, Any] = {
        "data": {"blend": two_languages},
        "training": {"eval_interval": 2, "train_steps": NUM_STEPS, "eval_steps": 1},
        "alignment": {"held_out_lexicon_paths": [str(held_out)], "maintain_interval": 1},
        "checkpoint": {"save_interval": 2, "keep_last": 3},
    }
    trackers = _trackers(f"sqlite:///{folder}/mlflow.db")
    first = make_values("align_init", folder / "align_init", logging={"log_interval": 1}, **sections)
    second = make_values("pretrain", folder / "pretrain", logging={**trackers, "profile_steps": [2, 3]}, **sections)
    run_distributed(_train, 1, OFFLINE, [first, second])
    shutil.rmtree(folder / "pretrain" / "checkpoints" / f"step_{NUM_STEPS:07d}")
    run_distributed(_train, 1, OFFLINE, [second])
    return folder


@pytest.fixture(scope="module")
def losses(runs: Path) -> dict[int, float]:
    """Training losses of pretrain/ by step, as its records have them."""
    records = [json.loads(line) for line in (runs / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    found = [(record["step"], record["lm_loss"]) for record in records if record["kind"] == "train"]
    assert [step for step, _ in found] == [1, 2, 3, 4]
    return dict(found)


def _fields(name: str, value: Any, any_of: set[str]) -> set[str]:
    """Return the documented names of a field: * for what depends on the run."""
    if not isinstance(value, dict):
        return {name}
    parts = {("*" if key in any_of else key): item for key, item in value.items()}
    return {field for key, item in parts.items() for field in _fields(f"{name}.{key}", item, any_of)}


def test_the_documented_fields_are_those_that_runs_write(runs: Path) -> None:
    any_of = {"en", "de", "en-de", "trained", "held_out", *tap_names(4, tied=True)}
    written: dict[str, set[str]] = {"train": set(), "valid": set()}
    for run in ("align_init", "pretrain"):
        records = [json.loads(line) for line in (runs / run / "metrics.jsonl").read_text().splitlines()]
        for record in records:
            for name, value in record.items():
                written[record["kind"]] |= _fields(name, value, any_of)
    text = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
    _, both, train, valid = (
        set(FIELD.findall(part)) for part in re.split("\n### ", text.partition("\n## Trackers")[0])
    )
    assert both
    assert {"train": both | train, "valid": both | valid} == written


def test_tensorboard_has_each_step_once(runs: Path, losses: dict[int, float]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(runs / "pretrain" / "tensorboard")).Reload()
    points = [(event.step, event.value) for event in events.Scalars("train/lm_loss")]
    assert points == [(step, pytest.approx(loss)) for step, loss in losses.items()]
    assert {"train/language_loss/de", "valid/loss/en", "valid/retrieval/held_out/en-de/p_at_1/0"} <= set(
        events.Tags()["scalars"]
    )


def test_mlflow_goes_on_in_the_same_run(runs: Path, losses: dict[int, float]) -> None:
    _needs("mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("pretrain", "FINISHED")
    assert run.data.params["training.train_steps"] == str(NUM_STEPS)
    history = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/lm_loss")}
    assert history == losses
    assert "valid/loss/en" in run.data.metrics


def test_wandb_goes_on_in_the_same_run(runs: Path, losses: dict[int, float]) -> None:
    _needs("wandb")
    run_id = (runs / "pretrain" / "wandb_id.txt").read_text().strip()
    files = sorted((runs / "pretrain" / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert len(files) == 2
    for path, steps in zip(files, [(1, 2, 3, 4), (3, 4)], strict=True):
        content = path.read_bytes()
        assert b"train/lm_loss" in content and b"valid/loss/en" in content
        assert [step for step, loss in losses.items() if repr(loss).encode() in content] == list(steps)


def test_the_window_of_steps_is_traced(runs: Path) -> None:
    traces = sorted((runs / "pretrain" / "profile").iterdir())
    # The continued run traced what was left of the window.
    assert [path.name for path in traces] == ["steps_2-3_rank_0.json.gz", "steps_3-3_rank_0.json.gz"]
    for path, num_steps in zip(traces, (2, 1), strict=True):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        steps = [event for event in events if event.get("name", "").startswith("Optimizer.step#")]
        assert len(steps) == num_steps
        assert any(event.get("name") == "aten::mm" for event in events)


def test_trackers_that_are_away_stop_nothing(make_values: MakeValues, tmp_path: Path) -> None:
    run = tmp_path / "run"
    logging = {**_trackers("http://127.0.0.1:9"), "log_interval": 2}
    values = make_values("pretrain", run, logging=logging, training={"train_steps": 2})
    # A file stands where TensorBoard's folder goes.
    run.mkdir()
    (run / "tensorboard").write_text("")
    (shown,) = run_distributed(_train, 1, AWAY, [values])
    assert (run / "checkpoints" / "step_0000002" / "state.json").is_file()
    assert json.loads((run / "metrics.jsonl").read_text())["step"] == 2
    services = {"W&B": "wandb", "MLflow": "mlflow"}
    for service in ("TensorBoard", *(name for name, package in services.items() if INSTALLED[package])):
        assert f"{service}: " in shown, service
        assert f"{service}: lacks records; metrics.jsonl has all" in shown
