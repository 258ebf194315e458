"""Trackers of a run's metrics: TensorBoard, Weights & Biases, MLflow.

A resumed run continues the same run of the service; its id is in <run_path>/wandb_id.txt or <run_path>/mlflow_id.txt.
Each tracker runs in its own thread, so that a service that fails or hangs neither stops nor delays training.
"""

import threading
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol
from uuid import uuid4

import yaml

from megatron_prealign.config import Config, dump_config
from megatron_prealign.config.root import LoggingConfig
from megatron_prealign.files import write_atomically

_MOST_PARAMETERS = 100  # the limit of one MLflow batch
_MOST_WAITING = 1000
"""Longest queue of records for a slow service; bounds memory."""
_FINISH_SECONDS = 45.0  # less than TrackerThread waits


def missing_packages(logging: LoggingConfig) -> list[str]:
    """Return an error for each configured tracker whose package is not installed."""
    wanted = {
        "logging.wandb_project": (logging.wandb_project, "wandb"),
        "logging.mlflow_experiment": (logging.mlflow_experiment, "mlflow"),
    }
    return [
        f"--{field} {value} needs the package {package}: pip install 'megatron-prealign[logging]', or set it to none"
        for field, (value, package) in wanted.items()
        if value is not None and find_spec(package) is None
    ]


class Tracker(Protocol):
    """One service that shows a run's metrics."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send the numbers of one record."""
        ...

    def close(self) -> None:
        """Send what is buffered and end the run."""
        ...


class TrackerThread:
    """Pass records to a service; a record it does not accept is missing only there."""

    def __init__(
        self, name: str, open_tracker: Callable[[], Tracker], say: Callable[[str], None], close_seconds: float = 60.0
    ) -> None:
        """Open the service `name`; if that fails, retry with each record. `say` shows a line on the terminal."""
        self._name = name
        self._open = open_tracker
        self._say = say
        self._close_seconds = close_seconds
        self._lacks_records = False
        self._records: SimpleQueue[tuple[Mapping[str, float], int] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Queue the numbers of one record; return at once."""
        if self._records.qsize() < _MOST_WAITING:
            self._records.put((numbers, step))
        else:
            self._lacks_records = True

    def close(self) -> None:
        """Wait for the queue, at most `close_seconds`, and report missing records."""
        self._records.put(None)
        self._thread.join(self._close_seconds)
        if self._thread.is_alive():
            self._say(f"{self._name}: not done after {self._close_seconds:g} seconds; metrics.jsonl has all records")
        elif self._lacks_records:
            self._say(f"{self._name}: lacks records; metrics.jsonl has all")

    def _run(self) -> None:
        tracker: Tracker | None = None
        fails = False
        try:
            tracker = self._open()
        except Exception as error:  # each library raises its own types
            fails = self._complain(error)
        for numbers, step in iter(self._records.get, None):
            try:
                tracker = tracker or self._open()
                tracker.log(numbers, step)
            except Exception as error:
                fails = fails or self._complain(error)
                self._lacks_records = True
            else:
                if fails:
                    self._say(f"{self._name}: accepts records again from step {step}")
                fails = False
        if tracker is not None:
            try:
                tracker.close()
            except Exception as error:
                self._complain(error)

    def _complain(self, error: Exception) -> bool:
        self._say(f"{self._name}: {error}; training continues without it")
        return True


def open_trackers(config: Config, step: int, say: Callable[[str], None]) -> list[TrackerThread]:
    """Open every configured tracker for a run that resumes after `step`; `say` shows a line."""
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
        """Open the folder; purge records of later steps that an interrupted run wrote."""
        self._folder = run_path / "tensorboard"
        _keep_quiet()
        self._writer = self._open(step + 1)

    def _open(self, step: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder), purge_step=step)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Write the numbers of one record."""
        writer = self._writer or self._open(step)
        # The writer's thread ends at the first failed write; only a new file accepts records again.
        self._writer = None
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()
        self._writer = writer

    def close(self) -> None:
        """Write what is buffered."""
        if self._writer is not None:
            self._writer.close()


def _keep_quiet() -> None:
    """Keep TensorBoard's threads from printing the error that ends them, because `log` raises it too."""
    show = threading.excepthook

    def show_others(failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("tensorboard."):
            show(failure)

    threading.excepthook = show_others


class WeightsAndBiases:
    """A run of a W&B project; offline with WANDB_MODE=offline. For a repeated step W&B keeps the first record."""

    def __init__(self, config: Config) -> None:
        """Begin a run, or continue the one whose id is stored."""
        import wandb

        run_path = Path(config.training.run_path)
        self._run = wandb.init(
            project=config.logging.wandb_project,
            name=config.logging.wandb_name or run_path.resolve().name,
            id=_kept_id(run_path, "wandb", lambda: uuid4().hex),
            resume="allow",
            dir=run_path,
            config=_plain(config),
            # W&B's capture of the terminal would break the progress bar; an unreachable server must not occupy GPUs.
            settings=wandb.Settings(console="off", finish_timeout=_FINISH_SECONDS),
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send the numbers of one record."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Send what is buffered and end the run."""
        self._run.finish()


class MLflow:
    """A run of an MLflow experiment, on a server or in a file store."""

    def __init__(self, config: Config) -> None:
        """Begin a run, or continue the one whose id is stored."""
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
        """Log new fields of the configuration; MLflow does not allow a logged parameter to change."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run_id).data.params
        sections = _plain(config).items()
        flat = {f"{section}.{field}": value for section, fields in sections for field, value in fields.items()}
        new = [Param(name, str(value)) for name, value in flat.items() if name not in known]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=new[start : start + _MOST_PARAMETERS])

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send the numbers of one record."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        """Send what is buffered and end the run."""
        self._client.set_terminated(self._run_id)


def _plain(config: Config) -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load(dump_config(config))
    return plain


def _kept_id(run_path: Path, service: str, create: Callable[[], str]) -> str:
    """Return the stored id of the run at the service; create and store it the first time."""
    path = run_path / f"{service}_id.txt"
    if not path.exists():
        write_atomically(path, create() + "\n")
    return path.read_text(encoding="utf-8").strip()
