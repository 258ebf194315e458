"""Services that draw a run's numbers: TensorBoard, Weights & Biases, MLflow.

A run that is continued goes on in the same run of the service, whose id stands in <run_path>/trackers.json.
"""

import json
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import yaml

from megatron_prealign.checkpoint.folder import write_atomically
from megatron_prealign.config import Config, dump_config
from megatron_prealign.config.logging import LoggingConfig
from megatron_prealign.errors import ConfigError

IDS = "trackers.json"
_MOST_PARAMETERS = 100  # MLflow takes no more at once


class Tracker(Protocol):
    """One service."""

    name: str

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of one record."""
        ...

    def close(self) -> None:
        """Send what is left and end the run."""
        ...


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


def open_trackers(config: Config, step: int) -> list[Tracker]:
    """Open every tracker that the configuration asks for, for a run that goes on after `step`.

    Raises:
        ConfigError: one that can't be opened, with what its library says.
    """
    logging = config.logging
    wanted: dict[str, Callable[[], Tracker]] = {}
    if logging.tensorboard:
        wanted["TensorBoard"] = lambda: TensorBoard(Path(config.training.run_path), step)
    if logging.wandb_project is not None:
        wanted["W&B"] = lambda: WeightsAndBiases(config)
    if logging.mlflow_experiment is not None:
        wanted["MLflow"] = lambda: MLflow(config)
    opened = []
    for name, open_one in wanted.items():
        try:
            opened.append(open_one())
        except Exception as error:  # each library has its own kinds
            raise ConfigError(f"{name} can't be opened: {error}; mend it, or leave it out of logging") from error
    return opened


class TensorBoard:
    """Event files in <run_path>/tensorboard."""

    name = "TensorBoard"

    def __init__(self, run_path: Path, step: int) -> None:
        """Open the folder; later steps of an interrupted run are taken back."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_path / "tensorboard"), purge_step=step + 1)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of one record."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of a W&B project; offline with WANDB_MODE=offline. Of a step taken twice W&B keeps the first."""

    name = "W&B"

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
            # Its copy of the terminal would fight with the progress bar.
            settings=wandb.Settings(console="off"),
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of one record."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Send what is left and end the run."""
        self._run.finish()


class MLflow:
    """A run of an MLflow experiment, on a server or in a file store."""

    name = "MLflow"

    def __init__(self, config: Config) -> None:
        """Begin a run, or go on with the one whose id is kept."""
        from mlflow import MlflowClient

        run_path, logging = Path(config.training.run_path), config.logging
        self._client = MlflowClient(logging.mlflow_tracking_uri)
        self._pending: Any = None

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
        """Take the numbers of one record; a thread sends them."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
        self._pending = self._client.log_batch(self._run_id, metrics=metrics, synchronous=False)

    def close(self) -> None:
        """Send what is left and end the run."""
        if self._pending is not None:
            self._pending.wait()
        self._client.set_terminated(self._run_id)


def _plain(config: Config) -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load(dump_config(config))
    return plain


def _kept_id(run_path: Path, service: str, create: Callable[[], str]) -> str:
    """Return the id that the service knows the run by; the first time it is created and kept."""
    path = run_path / IDS
    ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if service not in ids:
        ids[service] = create()
        write_atomically(path, json.dumps(ids) + "\n")
    return ids[service]
