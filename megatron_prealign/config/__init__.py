"""Configuration: one frozen dataclass a section, loaded from YAML and the command line."""

from megatron_prealign.config.alignment import AlignmentConfig
from megatron_prealign.config.counts import count_non_embedding_parameters, count_parameters
from megatron_prealign.config.data import BlendEntry, DataConfig, ValidEntry, find_prefixes
from megatron_prealign.config.loading import (
    LoadedConfig,
    config_from_dict,
    dump_config,
    load_config,
    load_resolved,
    read_config,
)
from megatron_prealign.config.model import ModelConfig
from megatron_prealign.config.presets import PRESETS, Preset
from megatron_prealign.config.root import CheckpointConfig, Config, LoggingConfig, ParallelConfig
from megatron_prealign.config.summary import describe, describe_changes, differences
from megatron_prealign.config.training import OptimizerConfig, ScheduleConfig, TrainingConfig
from megatron_prealign.config.validation import find_problems

__all__ = [
    "PRESETS",
    "AlignmentConfig",
    "BlendEntry",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "LoadedConfig",
    "LoggingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "Preset",
    "ScheduleConfig",
    "TrainingConfig",
    "ValidEntry",
    "config_from_dict",
    "count_non_embedding_parameters",
    "count_parameters",
    "describe",
    "describe_changes",
    "differences",
    "dump_config",
    "find_prefixes",
    "find_problems",
    "load_config",
    "load_resolved",
    "read_config",
]
