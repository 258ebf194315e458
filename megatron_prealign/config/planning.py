"""What a run takes on a cluster: seconds of a step, GPU hours and money, and the layouts that fit in memory.

A step is the matrix products, at a share of a GPU's peak that large ones reach, plus what cannot be hidden behind them:
the bubble of the pipeline, the messages of tensor parallelism, gradients, and the optimizer's update. Each has a lower
and an upper bound. The bounds were set by published throughputs, which tests/config/test_planning.py lists.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from megatron_prealign.config.counts import (
    PEAK_TERAFLOPS,
    StepMemory,
    count_flops_per_token,
    count_mlp_matrices,
    count_orthogonalization_flops,
    count_word_flops_per_token,
    rank_parameters,
    step_memory,
)
from megatron_prealign.config.root import Config
from megatron_prealign.config.training import count_samples
from megatron_prealign.config.validation import check, count_microbatches, model_parallel_size

# Bytes read and written per parameter by an update of fp32 weights and moments with fp32 gradients.
_UPDATE_BYTES = 30
# Of the operations of a layer, those of the forward pass.
_FORWARD = 1 / 3
_FP32, _BF16 = 4, 2


@dataclass(frozen=True, kw_only=True)
class _Rates:
    """What a step reaches, at best or at worst."""

    products: int
    """Which of a GPU's two shares of its peak."""
    transfers: float
    """Share of a link's or memory's nominal rate."""
    launch_seconds: float
    """Of Python and kernel launches per layer and microbatch, forward and backward; smaller products take as long."""
    overlaps: bool
    """Whether gradients are reduced behind the last backward pass, and interleaved pipelines send behind products."""


_BEST = _Rates(products=0, transfers=0.8, launch_seconds=0.4e-3, overlaps=True)
_WORST = _Rates(products=1, transfers=0.5, launch_seconds=1.5e-3, overlaps=False)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU by its data sheet."""

    memory_gib: float
    bf16_tflops: float
    """Dense."""
    memory_tb: float
    """TB/s of its own memory."""
    link_gb: float
    """GB/s to another GPU of its node, in each direction."""
    reached: tuple[float, float] = (0.72, 0.45)
    """Highest and lowest share of the peak that a step's matrix products reach together with what lies between them."""


GPUS: Mapping[str, Gpu] = {
    "a100-40": Gpu(memory_gib=40, bf16_tflops=PEAK_TERAFLOPS["A100"], memory_tb=1.56, link_gb=300),
    "a100-80": Gpu(memory_gib=80, bf16_tflops=PEAK_TERAFLOPS["A100"], memory_tb=2.04, link_gb=300),
    "h100": Gpu(memory_gib=80, bf16_tflops=PEAK_TERAFLOPS["H100"], memory_tb=3.35, link_gb=450, reached=(0.62, 0.40)),
    "h200": Gpu(memory_gib=141, bf16_tflops=PEAK_TERAFLOPS["H200"], memory_tb=4.8, link_gb=450, reached=(0.62, 0.40)),
    "b200": Gpu(memory_gib=180, bf16_tflops=PEAK_TERAFLOPS["B200"], memory_tb=8.0, link_gb=900, reached=(0.62, 0.35)),
}
"""NVIDIA's SXM modules, by the names of `tools/plan.py --gpu`."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """GPUs and what connects them."""

    gpu: Gpu
    num_gpus: int
    gpus_per_node: int = 8
    network_gb: float = 50.0
    """GB/s between nodes per GPU, in each direction: 50 = one port of 400 Gb/s each."""
    reserve_gib: float = 6.0
    """Memory of each GPU for what is not estimated."""

    @property
    def room_gib(self) -> float:
        """Memory of each GPU for what is estimated."""
        return self.gpu.memory_gib - self.reserve_gib


Bounds = tuple[float, float]
"""A lower and an upper bound."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A layout on a cluster."""

    config: Config
    memory: list[StepMemory]
    """By pipeline rank."""
    parts: Mapping[str, Bounds]
    """Seconds of a step by what takes them."""
    tokens_per_step: int
    flops_per_gpu: float
    """Operations of the model in a step, without recomputation."""
    peak_flops: float

    @property
    def step_seconds(self) -> Bounds:
        """Seconds of a step."""
        low, high = zip(*self.parts.values(), strict=True)
        return sum(low), sum(high)

    @property
    def tokens_per_second(self) -> Bounds:
        """Tokens per second of the whole cluster."""
        low, high = self.step_seconds
        return self.tokens_per_step / high, self.tokens_per_step / low

    @property
    def mfu(self) -> Bounds:
        """Share of the peak that the model's own operations reach."""
        low, high = self.step_seconds
        return self.flops_per_gpu / high / self.peak_flops, self.flops_per_gpu / low / self.peak_flops

    @property
    def peak_bytes(self) -> int:
        """Memory of the fullest rank."""
        return max(memory.total for memory in self.memory)

    def run_seconds(self) -> Bounds:
        """Seconds of all steps of the run, without validations, checkpoints and failures."""
        tokens = count_samples(self.config.training) * self.config.data.seq_length
        slow, fast = self.tokens_per_second
        return tokens / fast, tokens / slow


def estimate(config: Config, cluster: Cluster) -> Estimate:
    """Estimate a step of a configuration on a cluster.

    Args:
        config: Checked for the number of GPUs; preset and vocabulary resolved.
        cluster: GPUs of one kind.
    """
    tokens = config.training.global_batch_size * config.data.seq_length
    best, worst = (_step_seconds(config, cluster, rates) for rates in (_BEST, _WORST))
    return Estimate(
        config=config,
        memory=step_memory(config, cluster.num_gpus),
        parts={name: (seconds, worst[name]) for name, seconds in best.items()},
        tokens_per_step=tokens,
        flops_per_gpu=tokens * count_flops_per_token(config.model, config.data.seq_length) / cluster.num_gpus,
        peak_flops=cluster.gpu.bf16_tflops * 1e12,
    )


def fitting(layouts: Iterable[Estimate], cluster: Cluster) -> list[Estimate]:
    """Return the layouts that fit in the GPUs' memory, fastest first.

    Of layouts whose times are within 3 %, the one that splits least is first: the estimate is not finer than that.
    """
    return sorted((layout for layout in layouts if layout.peak_bytes <= cluster.room_gib * 2**30), key=_rank)


def _rank(layout: Estimate) -> tuple[int, int, int, float]:
    parallel = layout.config.parallel
    splits = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
    seconds = sum(layout.step_seconds)
    return int(math.log(seconds) / 0.03), splits, parallel.virtual_pipeline_model_parallel_size or 1, seconds


def all_layouts(config: Config, cluster: Cluster) -> list[Estimate]:
    """Return the layouts that run on the cluster, whether they fit in memory or not.

    All use the distributed optimizer, except with Muon. Tried are tensor and pipeline parallelism, interleaving,
    micro-batch size and recomputation of MLPs or whole layers; the rest is the configuration's.
    """
    return [estimate(candidate, cluster) for candidate in _candidates(config, cluster)]


def _candidates(config: Config, cluster: Cluster) -> Iterator[Config]:
    layers, ours = config.model.num_layers, {problem.message for problem in check(config)}
    tensors = [size for size in (1, 2, 4, 8, 16) if size <= cluster.gpus_per_node]
    stages = [size for size in range(1, min(layers, cluster.num_gpus) + 1) if layers % size == 0]
    recomputations: tuple[Literal["none", "mlp", "full"], ...] = ("none", "mlp", "full")
    for tensor, stage, micro, recompute in itertools.product(tensors, stages, (1, 2, 4, 8, 16), recomputations):
        interleavings = [None, *(size for size in (2, 4, 8) if stage > 1 and layers // stage % size == 0)]
        for virtual in interleavings:
            parallel = dataclasses.replace(
                config.parallel,
                tensor_model_parallel_size=tensor,
                sequence_parallel=tensor > 1,
                pipeline_model_parallel_size=stage,
                virtual_pipeline_model_parallel_size=virtual,
                use_distributed_optimizer=config.optimizer.name != "muon",
            )
            training = dataclasses.replace(config.training, micro_batch_size=micro, recompute=recompute)
            candidate = dataclasses.replace(config, parallel=parallel, training=training)
            if all(problem.message in ours for problem in check(candidate, world_size=cluster.num_gpus)):
                yield candidate


def _step_seconds(config: Config, cluster: Cluster, rates: _Rates) -> dict[str, float]:
    """Return the seconds of a step by what takes them."""
    parallel, gpu = config.parallel, cluster.gpu
    stages, virtual = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size or 1
    num_microbatches = count_microbatches(config, cluster.num_gpus)
    replicas = cluster.num_gpus // model_parallel_size(config) * parallel.context_parallel_size
    peak = gpu.reached[rates.products] * gpu.bf16_tflops * 1e12
    flops = _microbatch_flops(config) / peak
    products = max(flops, rates.launch_seconds * config.model.num_layers / stages)
    tensor = _tensor_messages(config, cluster) / rates.transfers
    pipeline = 0.0 if virtual > 1 and rates.overlaps else _pipeline_messages(config, cluster) / rates.transfers
    gradients = _gradient_messages(config, cluster, replicas) / rates.transfers
    if rates.overlaps:
        gradients = max(gradients - (1 - _FORWARD) * (products + tensor), 0.0)
    owners = replicas if parallel.use_distributed_optimizer else 1
    update = count_orthogonalization_flops(config, replicas) / peak
    update += _UPDATE_BYTES * rank_parameters(config, 0) / owners / (gpu.memory_tb * 1e12) / rates.transfers
    return {
        "matrix products": num_microbatches * products,
        "tensor parallelism": num_microbatches * tensor,
        "pipeline messages": num_microbatches * pipeline,
        "pipeline bubble": (products + tensor) * (stages - 1) / virtual,
        "gradients": gradients,
        "optimizer": update,
    }


def _microbatch_flops(config: Config) -> float:
    """Return the operations of a microbatch on one GPU, with those that recomputation repeats."""
    per_token = float(count_flops_per_token(config.model, config.data.seq_length))
    if config.training.recompute == "full":
        per_token += _FORWARD * count_word_flops_per_token(config.model)
    if config.training.recompute == "mlp":
        per_token += 2 * config.model.num_layers * count_mlp_matrices(config.model)
    return per_token * config.training.micro_batch_size * config.data.seq_length / model_parallel_size(config)


def _tensor_messages(config: Config, cluster: Cluster) -> float:
    """Return the seconds of a microbatch's messages between tensor-parallel ranks at the links' nominal rate.

    In each layer four all-reduces of the hidden states, two of them in the forward pass; sequence parallelism splits
    each into two halves, as an all-reduce does by itself.
    """
    parallel = config.parallel
    size = parallel.tensor_model_parallel_size
    link = cluster.gpu.link_gb if size <= cluster.gpus_per_node else cluster.network_gb
    each = 2 * (size - 1) / size * _hidden_bytes(config)
    per_layer = {"full": 6, "mlp": 5}.get(config.training.recompute, 4)
    return per_layer * config.model.num_layers / parallel.pipeline_model_parallel_size * each / (link * 1e9)


def _hidden_bytes(config: Config) -> float:
    """Return the bytes of a microbatch's hidden states on one context-parallel rank."""
    tokens = config.training.micro_batch_size * config.data.seq_length / config.parallel.context_parallel_size
    return tokens * config.model.hidden_size * (_FP32 if config.training.precision == "fp32" else _BF16)


def _pipeline_messages(config: Config, cluster: Cluster) -> float:
    """Return the seconds of a microbatch's hidden states and gradients between pipeline ranks, at the nominal rate."""
    parallel = config.parallel
    if parallel.pipeline_model_parallel_size == 1:
        return 0.0
    split = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
    link = cluster.gpu.link_gb if model_parallel_size(config) <= cluster.gpus_per_node else cluster.network_gb
    return 2 * (parallel.virtual_pipeline_model_parallel_size or 1) * _hidden_bytes(config) / split / (link * 1e9)


def _gradient_messages(config: Config, cluster: Cluster, size: int) -> float:
    """Return the seconds in which `size` ranks reduce fp32 gradients and gather weights, at the links' nominal rate."""
    parallel = config.parallel
    link = cluster.gpu.link_gb if cluster.num_gpus <= cluster.gpus_per_node else cluster.network_gb
    gathered = _FP32 if not parallel.use_distributed_optimizer or config.training.precision == "fp32" else _BF16
    parameters = max(rank_parameters(config, 0), rank_parameters(config, parallel.pipeline_model_parallel_size - 1))
    return (_FP32 + gathered) * parameters * (size - 1) / size / (link * 1e9)
