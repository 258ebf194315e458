"""Configuration: one frozen dataclass a section, loaded from YAML and the command line."""

from megatron_prealign.config.alignment import AlignmentConfig
from megatron_prealign.config.checkpoint import CheckpointConfig
from megatron_prealign.config.data import BlendEntry, DataConfig
from megatron_prealign.config.logging import LoggingConfig
from megatron_prealign.config.model import ModelConfig
from megatron_prealign.config.optimizer import OptimizerConfig
from megatron_prealign.config.parallel import ParallelConfig
from megatron_prealign.config.root import Config
from megatron_prealign.config.schedule import ScheduleConfig
from megatron_prealign.config.training import TrainingConfig

__all__ = [
    "AlignmentConfig",
    "BlendEntry",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "LoggingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "ScheduleConfig",
    "TrainingConfig",
]
