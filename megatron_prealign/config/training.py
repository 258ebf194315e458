"""The sections training, guards, optimizer and schedule; and the batch size of each step."""

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron_prealign.config.constraints import ABOVE_0, AT_LEAST_0, AT_LEAST_1, BELOW_1, SEED, Range


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One run of the loop."""

    stage: Literal["align_init", "pretrain"] = "pretrain"
    """align_init = stage 1 (word pairs and language modelling); pretrain = stage 2."""

    run_path: str = ""
    """Folder of the run: config.yaml, metrics.jsonl, tensorboard/, checkpoints/."""

    train_steps: Annotated[int, Range(1, 10**12)] = 1000
    """Optimizer steps."""

    micro_batch_size: Annotated[int, AT_LEAST_1] = 8
    """Sequences per forward pass on one data-parallel rank."""

    global_batch_size: Annotated[int, AT_LEAST_1] = 8
    """Sequences per optimizer step over all ranks."""

    rampup_batch_size: tuple[int, int, int] | None = None
    """Initial batch size, increment, and samples over which it grows to global_batch_size; none = constant."""

    seed: Annotated[int, SEED] = 1234
    """Seed of initial weights, data order and dropout."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Parameter and activation type; bf16 and fp16 keep fp32 main weights and gradients, fp16 scales the loss."""

    fp8: Literal["none", "hybrid", "e4m3"] = "none"
    """Matrix products of Transformer Engine layers in 8 bits: hybrid = e4m3 forwards and e5m2 backwards."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Platform; auto = cuda if a GPU is visible, else cpu."""

    z_loss_weight: Annotated[float, AT_LEAST_0] = 0.0
    """Weight of the z-loss: the squared logarithm of the softmax's normaliser at predicted positions, which keeps
    logits small (PaLM: 1e-4). Reported losses do not include it; 0 = none."""

    recompute: Literal["none", "selective", "mlp", "full"] = "none"
    """What the backward pass computes again instead of keeping it: nothing, selective = core attention (saves little,
    as scores are not kept), mlp = the MLP of each layer, about half of what it keeps (models without biases), full =
    whole layers."""

    recompute_num_layers: Annotated[int, AT_LEAST_1] = 1
    """Layers between two stored activations under full recomputation."""

    eval_interval: Annotated[int, AT_LEAST_0] = 100
    """Steps between validations; 0 = never."""

    eval_steps: Annotated[int, AT_LEAST_1] = 10
    """Global batches per language in one validation."""

    exit_duration_minutes: Annotated[float, ABOVE_0] | None = None
    """Minutes from the start of the job after which it saves and exits with code 75; none = no limit. The job starts
    at SLURM_JOB_START_TIME, with torchrun's agent or with the process, whichever is earliest; restarts by torchrun do
    not reset it."""

    manual_gc_interval: Annotated[int, AT_LEAST_0] = 100
    """Steps between collections of Python's garbage, which all ranks make after the same step; otherwise each rank
    makes its own at any time, and all wait for it. 0 = whenever Python chooses."""

    check_invariants: bool = True
    """Check at log steps that replicated parameters are equal across ranks, that every parameter has a finite gradient,
    and that data-parallel ranks read different samples."""


@dataclass(frozen=True, kw_only=True)
class GuardsConfig:
    """A step whose loss or gradient is NaN or infinite is always skipped.

    <run_path>/skipped.jsonl lists the samples of skipped steps.
    """

    max_skipped_steps: Annotated[int, AT_LEAST_1] = 10
    """Consecutive skipped steps after which the run stops with exit code 3."""

    loss_spike: Literal["ignore", "skip", "rewind"] = "ignore"
    """What happens to a step whose language-modelling loss spikes: ignore = it is applied; skip = it is skipped;
    rewind = it is skipped, weights and optimizer return to the newest checkpoint, data and learning rate continue."""

    spike_window: Annotated[int, Range(2, note=" (one loss has no deviation)")] = 128
    """Number of applied steps that a loss is compared with; until there are that many, no loss is a spike."""

    spike_deviations: Annotated[float, ABOVE_0] = 6.0
    """Standard deviations above their mean at which a loss is a spike."""

    max_rewinds: Annotated[int, AT_LEAST_1] = 3
    """Number of rewinds; the next spike stops the run with exit code 3."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The rule of the updates and gradient clipping."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon = the matrices of the layers are updated by orthogonalized momentum, scaled so that the learning rate and
    weight decay of AdamW apply; embeddings, output layer, norms and biases by AdamW."""

    lr: Annotated[float, Range(0, 1000, above=True)] = 3e-4
    """Peak learning rate."""

    min_lr: Annotated[float, AT_LEAST_0] = 3e-5
    """Learning rate at the end of the decay."""

    weight_decay: Annotated[float, AT_LEAST_0] = 0.1
    """Decoupled weight decay; norms and biases are exempt."""

    adam_beta1: Annotated[float, BELOW_1] = 0.9
    """Decay of the first moment."""

    adam_beta2: Annotated[float, BELOW_1] = 0.95
    """Decay of the second moment."""

    adam_eps: Annotated[float, Range(1e-38, 1)] = 1e-8
    """Term added to the root of the second moment."""

    muon_momentum: Annotated[float, BELOW_1] = 0.95
    """Decay of Muon's momentum, with Nesterov's look-ahead."""

    muon_ns_steps: Annotated[int, AT_LEAST_1] = 5
    """Iterations of Newton-Schulz that orthogonalize Muon's momentum."""

    clip_grad: Annotated[float, AT_LEAST_0] = 1.0
    """Largest global gradient norm; 0 = no clipping."""

    initial_loss_scale: Annotated[float, AT_LEAST_1] = 65536.0
    """Initial loss scale of fp16; halved after overflows, doubled after loss_scale_window steps without one."""

    loss_scale_window: Annotated[int, AT_LEAST_1] = 1000
    """Steps without overflow before fp16's loss scale is doubled."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate: warm-up, then decay; all lengths in optimizer steps."""

    lr_decay_style: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape after the warm-up; wsd = constant, then a decay over the last steps."""

    lr_warmup_steps: Annotated[int, AT_LEAST_0] = 0
    """Steps of linear warm-up from 0 to optimizer.lr."""

    lr_decay_steps: Annotated[int, AT_LEAST_1] | None = None
    """Step at which optimizer.min_lr is reached; none = training.train_steps."""

    lr_wsd_decay_steps: Annotated[int, AT_LEAST_1] | None = None
    """Steps of the final decay of wsd; none = 20 % of lr_decay_steps."""

    lr_wsd_decay_style: Literal["linear", "cosine", "exponential", "minus_sqrt"] = "linear"
    """Shape of the final decay of wsd; minus_sqrt = 1 - sqrt, exponential = 2 * 0.5^x - 1."""


def global_batch_size_at(training: TrainingConfig, consumed_samples: int) -> int:
    """Return the global batch size of the step after `consumed_samples`, in sequences.

    Uses Megatron's rule: during the ramp-up the size grows by equal increments, each after the same number of samples.
    A resumed run therefore continues with the same sizes.
    """
    if training.rampup_batch_size is None:
        return training.global_batch_size
    start, increment, samples = training.rampup_batch_size
    if consumed_samples >= samples:
        return training.global_batch_size
    num_increments = (training.global_batch_size - start) // increment
    return start + increment * (consumed_samples * num_increments // samples)


def count_samples(training: TrainingConfig, step: int = 0, consumed_samples: int = 0) -> int:
    """Return the sequences of all steps of the run, of which the first `step` steps used `consumed_samples`."""
    samples = consumed_samples
    for done in range(step, training.train_steps):
        if training.rampup_batch_size is None or samples >= training.rampup_batch_size[2]:
            return samples + (training.train_steps - done) * training.global_batch_size
        samples += global_batch_size_at(training, samples)
    return samples
