"""Services that draw a run's numbers: TensorBoard, Weights & Biases, MLflow.

A run that is continued goes on in the same run of the service, whose id stands in <run_path>/wandb_id.txt or
<run_path>/mlflow_id.txt.
"""

import threading
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from megatron_prealign.config import Config, dump_config
from megatron_prealign.config.root import LoggingConfig
from megatron_prealign.files import write_atomically
from megatron_prealign.training.tracker_thread import Tracker, TrackerThread

_MOST_PARAMETERS = 100  # MLflow takes no more at once
_FINISH_SECONDS = 45.0  # within what a thread is waited for


def missing_packages(logging: LoggingConfig) -> list[str]:
    """Return which trackers are asked for and not installed."""
    wanted = {
        "logging.wandb_project": (logging.wandb_project, "wandb"),
        "logging.mlflow_experiment": (logging.mlflow_experiment, "mlflow"),
    }
    return [
        f"--{field} {value} needs the package {package}: pip install 'megatron-prealign[logging]', or set it to none"
        for field, (value, package) in wanted.items()
        if value is not None and find_spec(package) is None
    ]


def open_trackers(config: Config, step: int, say: Callable[[str], None]) -> list[TrackerThread]:
    """Open every tracker that the configuration asks for, for a run that goes on after `step`; `say` shows a line."""
    logging = config.logging
    wanted: dict[str, Callable[[], Tracker]] = {}
    if logging.tensorboard:
        wanted["TensorBoard"] = lambda: TensorBoard(Path(config.training.run_path), step)
    if logging.wandb_project is not None:
        wanted["W&B"] = lambda: WeightsAndBiases(config)
    if logging.mlflow_experiment is not None:
        wanted["MLflow"] = lambda: MLflow(config)
    return [TrackerThread(name, open_one, say) for name, open_one in wanted.items()]


class TensorBoard:
    """Event files in <run_path>/tensorboard."""

    def __init__(self, run_path: Path, step: int) -> None:
        """Open the folder; what an interrupted run wrote of later steps is taken back."""
        self._folder = run_path / "tensorboard"
        _keep_quiet()
        self._writer = self._open(step + 1)

    def _open(self, step: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder), purge_step=step)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of one record."""
        writer = self._writer or self._open(step)
        # Its thread ends with the first write that fails: only a new file takes records again.
        self._writer = None
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()
        self._writer = writer

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


def _keep_quiet() -> None:
    """Keep TensorBoard's threads from printing the error that ends them: `log` raises it, too."""
    show = threading.excepthook

    def show_others(failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("tensorboard."):
            show(failure)

    threading.excepthook = show_others


class WeightsAndBiases:
    """A run of a W&B project; offline with WANDB_MODE=offline. Of a step taken twice W&B keeps the first."""

    def __init__(self, config: Config) -> None:
        """Begin a run, or go on with the one whose id is kept."""
        import wandb

        run_path = Path(config.training.run_path)
        self._run = wandb.init(
            project=config.logging.wandb_project,
            name=config.logging.wandb_name or run_path.resolve().name,
            id=_kept_id(run_path, "wandb", lambda: uuid4().hex),
            resume="allow",
            dir=run_path,
            config=_plain(config),
            # Its copy of the terminal would fight with the progress bar; a server that is away must not keep GPUs.
            settings=wandb.Settings(console="off", finish_timeout=_FINISH_SECONDS),
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of one record."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Send what is left and end the run."""
        self._run.finish()


class MLflow:
    """A run of an MLflow experiment, on a server or in a file store."""

    def __init__(self, config: Config) -> None:
        """Begin a run, or go on with the one whose id is kept."""
        from mlflow import MlflowClient

        run_path, logging = Path(config.training.run_path), config.logging
        self._client = MlflowClient(logging.mlflow_tracking_uri)

        def create() -> str:
            name = str(logging.mlflow_experiment)
            experiment = self._client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self._client.create_experiment(name)
            return str(self._client.create_run(number, run_name=run_path.resolve().name).info.run_id)

        self._run_id = _kept_id(run_path, "mlflow", create)
        self._client.update_run(self._run_id, status="RUNNING")
        self._log_parameters(config)

    def _log_parameters(self, config: Config) -> None:
        """Log the configuration; what a run was begun with stays, as MLflow wants it."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run_id).data.params
        sections = _plain(config).items()
        flat = {f"{section}.{field}": value for section, fields in sections for field, value in fields.items()}
        new = [Param(name, str(value)) for name, value in flat.items() if name not in known]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=new[start : start + _MOST_PARAMETERS])

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of one record."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        """Send what is left and end the run."""
        self._client.set_terminated(self._run_id)


def _plain(config: Config) -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load(dump_config(config))
    return plain


def _kept_id(run_path: Path, service: str, create: Callable[[], str]) -> str:
    """Return the id that the service knows the run by; the first time it is created and kept."""
    path = run_path / f"{service}_id.txt"
    if not path.exists():
        write_atomically(path, create() + "\n")
    return path.read_text(encoding="utf-8").strip()
