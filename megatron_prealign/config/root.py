"""The whole configuration: one dataclass a section."""

from dataclasses import dataclass, field

from megatron_prealign.config.alignment import AlignmentConfig
from megatron_prealign.config.checkpoint import CheckpointConfig
from megatron_prealign.config.data import DataConfig
from megatron_prealign.config.guards import GuardsConfig
from megatron_prealign.config.logging import LoggingConfig
from megatron_prealign.config.model import ModelConfig
from megatron_prealign.config.optimizer import OptimizerConfig
from megatron_prealign.config.parallel import ParallelConfig
from megatron_prealign.config.schedule import ScheduleConfig
from megatron_prealign.config.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run depends on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Network."""

    data: DataConfig = field(default_factory=DataConfig)
    """Tokenizer and datasets."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Layout of ranks."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate over steps."""

    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """Stage 1, and what stage 2 keeps of it."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The loop."""

    guards: GuardsConfig = field(default_factory=GuardsConfig)
    """Steps that must not reach the weights."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving and starting points."""

    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Metrics."""
