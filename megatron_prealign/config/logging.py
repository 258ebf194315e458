"""The logging section: what is written, and how often."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """metrics.jsonl is always written."""

    log_interval: int = 10
    """Steps between progress lines and training records."""

    tensorboard: bool = True
    """Write TensorBoard events to <run_path>/tensorboard."""
