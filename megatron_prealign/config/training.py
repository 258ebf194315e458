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

    seed: int = 1234
    """Seed of initial weights, data order and dropout."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Parameter and activation type; bf16 keeps fp32 main weights and gradients."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Platform; auto = cuda where a GPU is visible."""

    recompute: Literal["none", "selective", "full"] = "none"
    """Activation recomputation: none, core attention only, or whole layers."""

    eval_interval: int = 100
    """Steps between validations; 0 = never."""

    eval_steps: int = 10
    """Global batches a language in one validation."""

    exit_duration_minutes: float | None = None
    """Minutes from the start of the process after which it saves and exits with code 75; none = no limit."""

    check_invariants: bool = True
    """Check at log steps that replicated parameters are equal across ranks, that every parameter has a finite gradient,
    and that data-parallel ranks read different samples."""
