"""The whole configuration, one dataclass per section, and the sections parallel, checkpoint and logging."""

from dataclasses import dataclass, field
from typing import Annotated

from megatron_prealign.config.alignment import AlignmentConfig
from megatron_prealign.config.constraints import AT_LEAST_0, AT_LEAST_1, Range
from megatron_prealign.config.data import DataConfig
from megatron_prealign.config.model import ModelConfig
from megatron_prealign.config.training import GuardsConfig, OptimizerConfig, ScheduleConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Megatron-core's parallel axes; data parallelism uses the remaining factor of the world size."""

    tensor_model_parallel_size: Annotated[int, AT_LEAST_1] = 1
    """Ranks that split each layer."""

    pipeline_model_parallel_size: Annotated[int, AT_LEAST_1] = 1
    """Ranks that split the stack of layers."""

    virtual_pipeline_model_parallel_size: Annotated[int, Range(2, note=", or none")] | None = None
    """Model chunks per pipeline rank (interleaved schedule); none = plain 1F1B."""

    sequence_parallel: bool = False
    """Split activations along the sequence between tensor-parallel regions; needs tensor parallelism."""

    context_parallel_size: Annotated[int, AT_LEAST_1] = 1
    """Ranks that split each sequence; only in the pretrain stage."""

    use_distributed_optimizer: bool = False
    """Shard optimizer states over data-parallel ranks (ZeRO-1)."""

    overlap_grad_reduce: bool | None = None
    """Reduce gradients during the backward pass; none = on cuda with several data-parallel ranks."""

    overlap_param_gather: bool | None = None
    """Gather the distributed optimizer's parameters during the forward pass; none = if overlap_grad_reduce is on and
    the distributed optimizer is used."""

    ddp_bucket_size: Annotated[int, AT_LEAST_1] | None = None
    """Parameters per bucket whose gradients overlap_grad_reduce reduces together; none = 40,000,000, or 1,000,000 per
    data-parallel rank if that is more (as Megatron-LM's ddp-bucket-size)."""

    distributed_timeout_minutes: Annotated[float, Range(0, 1_000_000, above=True)] = 30.0
    """Minutes that a rank waits for another before it fails; building the sample index must not take longer."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Sharded checkpoints under <run_path>/checkpoints, loadable at any layout."""

    save_interval: Annotated[int, AT_LEAST_1] = 500
    """Steps between checkpoints; the last step is always saved."""

    keep_last: Annotated[int, Range(2, note=" (an interrupted save must leave one)")] = 2
    """Number of newest checkpoints to keep; at least 2."""

    keep_every: Annotated[int, AT_LEAST_0] = 0
    """Also keep checkpoints of steps divisible by this; 0 = none."""

    verify: bool = True
    """Compare every file of a checkpoint with its manifest before use, and fall back to the newest intact one."""

    resume: bool = True
    """Continue from the run's newest checkpoint if there is one; false = refuse a run folder that has checkpoints."""

    init_from: str | None = None
    """Run folder or checkpoint whose weights start this run (stage 1 to stage 2)."""

    init_optimizer: bool = False
    """Also load the optimizer's moments from init_from; the learning-rate schedule restarts in any case."""


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """metrics.jsonl is always written."""

    log_interval: Annotated[int, AT_LEAST_1] = 10
    """Steps between progress lines and training records."""

    tensorboard: bool = True
    """Write TensorBoard events to <run_path>/tensorboard."""

    wandb_project: str | None = None
    """W&B project of the records; with WANDB_MODE=offline in the environment they stay on disk; none = no W&B."""

    wandb_name: str | None = None
    """Name of the run in W&B; none = the name of its folder."""

    mlflow_experiment: str | None = None
    """MLflow experiment of the records; none = no MLflow."""

    mlflow_tracking_uri: str | None = None
    """Server or store of MLflow, such as http://host:5000 or sqlite:///runs/mlflow.db; none = MLflow's default."""

    profile_steps: tuple[int, ...] = ()
    """First and last step that torch.profiler traces into <run_path>/profile; empty = no trace."""

    profile_ranks: tuple[int, ...] = (0,)
    """Ranks to trace."""

    profile_nvtx: bool = False
    """Mark operators with NVTX ranges in those steps, for nsys, instead of a trace; needs cuda."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Network."""

    data: DataConfig = field(default_factory=DataConfig)
    """Tokenizer and datasets."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Layout of ranks."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW or Muon."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate over steps."""

    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """Stage 1, and the alignment kept in stage 2."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The loop."""

    guards: GuardsConfig = field(default_factory=GuardsConfig)
    """Handling of bad steps."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving and starting points."""

    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Metrics."""
