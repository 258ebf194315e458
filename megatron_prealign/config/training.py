"""The training section: the stage, batch sizes, precision, validation."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One run of the loop."""

    stage: Literal["align_init", "pretrain"] = "pretrain"
    """align_init = stage 1 (word pairs beside language modelling); pretrain = stage 2."""

    run_path: str = ""
    """Folder of the run: config.yaml, metrics.jsonl, tensorboard/, checkpoints/."""

    train_steps: int = 1000
    """Optimizer steps."""

    micro_batch_size: int = 8
    """Sequences a forward pass on one data-parallel rank."""

    global_batch_size: int = 8
    """Sequences an optimizer step over all ranks."""

    rampup_batch_size: tuple[int, int, int] | None = None
    """Sequences of the first steps, what is added to them at a time, and the samples over which this grows to
    global_batch_size; none = constant."""

    seed: int = 1234
    """Seed of initial weights, data order and dropout."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Parameter and activation type; bf16 and fp16 keep fp32 main weights and gradients, fp16 scales the loss."""

    fp8: Literal["none", "hybrid", "e4m3"] = "none"
    """Matrix products of Transformer Engine layers in 8 bits: hybrid = e4m3 forwards and e5m2 backwards."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Platform; auto = cuda where a GPU is visible."""

    recompute: Literal["none", "selective", "full"] = "none"
    """Activation recomputation: none, core attention only, or whole layers."""

    recompute_num_layers: int = 1
    """Layers between two kept activations, under full recomputation."""

    eval_interval: int = 100
    """Steps between validations; 0 = never."""

    eval_steps: int = 10
    """Global batches a language in one validation."""

    exit_duration_minutes: float | None = None
    """Minutes from the start of the job after which it saves and exits with code 75; none = no limit. The job starts
    at SLURM_JOB_START_TIME, with torchrun's agent or with the process, whichever is earliest; restarts by torchrun do
    not begin it anew."""

    check_invariants: bool = True
    """Check at log steps that replicated parameters are equal across ranks, that every parameter has a finite gradient,
    and that data-parallel ranks read different samples."""
