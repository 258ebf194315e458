"""The whole configuration: one dataclass a section; here those of ranks, checkpoints and records."""

from dataclasses import dataclass, field
from typing import Annotated

from megatron_prealign.config.alignment import AlignmentConfig
from megatron_prealign.config.constraints import AT_LEAST_0, AT_LEAST_1, Range
from megatron_prealign.config.data import DataConfig
from megatron_prealign.config.model import ModelConfig
from megatron_prealign.config.training import GuardsConfig, OptimizerConfig, ScheduleConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Megatron-core's parallel axes; data parallelism takes what is left of the world size."""

    tensor_model_parallel_size: Annotated[int, AT_LEAST_1] = 1
    """Ranks that split each layer."""

    pipeline_model_parallel_size: Annotated[int, AT_LEAST_1] = 1
    """Ranks that split the stack of layers."""

    virtual_pipeline_model_parallel_size: Annotated[int, Range(2, note=", or none")] | None = None
    """Model chunks a pipeline rank (interleaved schedule); none = plain 1F1B."""

    sequence_parallel: bool = False
    """Split activations along the sequence between tensor-parallel regions; needs tensor parallelism."""

    context_parallel_size: Annotated[int, AT_LEAST_1] = 1
    """Ranks that split each sequence; for the pretrain stage."""

    use_distributed_optimizer: bool = False
    """Shard optimizer states over data-parallel ranks (ZeRO-1)."""

    overlap_grad_reduce: bool | None = None
    """Reduce gradients while the backward pass runs; none = on cuda with several data-parallel ranks."""

    overlap_param_gather: bool | None = None
    """Gather the distributed optimizer's parameters while the forward pass runs; none = where overlap_grad_reduce is on
    and the distributed optimizer is used."""

    ddp_bucket_size: Annotated[int, AT_LEAST_1] | None = None
    """Parameters of a bucket whose gradients overlap_grad_reduce reduces at once; none = 40,000,000, or 1,000,000 a
    data-parallel rank where that is more (as Megatron-LM's ddp-bucket-size)."""

    distributed_timeout_minutes: Annotated[float, Range(0, 1_000_000, above=True)] = 30.0
    """Minutes that a rank waits for another before it ends with an error; building an index must not take longer."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Sharded checkpoints under <run_path>/checkpoints, loadable at any layout."""

    save_interval: Annotated[int, AT_LEAST_1] = 500
    """Steps between checkpoints; the last step is always saved."""

    keep_last: Annotated[int, Range(2, note=" (a save that is cut off must leave one)")] = 2
    """Newest checkpoints kept; at least 2."""

    keep_every: Annotated[int, AT_LEAST_0] = 0
    """Checkpoints of steps divisible by this are kept too; 0 = none."""

    verify: bool = True
    """Compare every file with the checkpoint's manifest before it is used, and fall back to the newest sound one."""

    resume: bool = True
    """Continue from the run's newest checkpoint where there is one; false refuses a run folder in use."""

    init_from: str | None = None
    """Run folder or checkpoint whose weights start this run (stage 1 to stage 2)."""

    init_optimizer: bool = False
    """Take the optimizer's moments from init_from too; the learning-rate schedule starts anew either way."""


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """metrics.jsonl is always written."""

    log_interval: Annotated[int, AT_LEAST_1] = 10
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
