"""The logging section: what is written, and how often."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """metrics.jsonl is always written."""

    log_interval: int = 10
    """Steps between progress lines and training records."""

    tensorboard: bool = True
    """Write TensorBoard events to <run_path>/tensorboard."""

    wandb_project: str | None = None
    """W&B project that gets the records; WANDB_MODE=offline in the environment keeps them on disk; none = no W&B."""

    wandb_name: str | None = None
    """Name of the run in W&B; none = the name of its folder."""

    mlflow_experiment: str | None = None
    """MLflow experiment that gets the records; none = no MLflow."""

    mlflow_tracking_uri: str | None = None
    """Server or store of MLflow, like http://host:5000 or sqlite:///runs/mlflow.db; none = MLflow's own choice."""

    profile_steps: tuple[int, ...] = ()
    """First and last step that torch.profiler traces into <run_path>/profile; none = no trace."""

    profile_ranks: tuple[int, ...] = (0,)
    """Ranks that trace."""

    profile_nvtx: bool = False
    """Mark operators with NVTX ranges in those steps, for nsys, in place of a trace; needs cuda."""
