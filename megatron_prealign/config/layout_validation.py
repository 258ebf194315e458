"""Checks of parallelism, precision, recomputation and batch sizes, beyond even splits."""

from collections.abc import Iterator

from megatron_prealign.config.alignment_validation import reads_items
from megatron_prealign.config.constraints import Problem
from megatron_prealign.config.root import Config


def check_layout(config: Config) -> Iterator[Problem]:
    """Yield what is wrong with options of parallelism, precision, recomputation and batch size."""
    yield from _context_parallel(config)
    yield from _overlap(config)
    yield from _muon(config)
    yield from _fp8(config)
    yield from _recompute(config)
    yield from _rampup(config)


def check_rampup_batches(config: Config, data_parallel_size: int) -> Iterator[Problem]:
    """Yield why the batch sizes of the ramp-up do not split over the ranks."""
    training, parallel = config.training, config.parallel
    if training.rampup_batch_size is None:
        return
    unit = training.micro_batch_size * data_parallel_size
    if parallel.virtual_pipeline_model_parallel_size is not None:
        unit *= parallel.pipeline_model_parallel_size
    start, increment, _ = training.rampup_batch_size
    if unit > 0 and (start % unit or increment % unit):
        rounds = " x pipeline ranks" if parallel.virtual_pipeline_model_parallel_size is not None else ""
        yield Problem(
            f"--training.rampup_batch_size starts at {start} and grows by {increment}, which must be multiples of "
            f"{unit} = --training.micro_batch_size {training.micro_batch_size} x {data_parallel_size} data-parallel "
            f"ranks{rounds}: change them"
        )


def _context_parallel(config: Config) -> Iterator[Problem]:
    parallel = config.parallel
    name, size = "parallel.context_parallel_size", parallel.context_parallel_size
    if size <= 1:
        return
    # Each rank takes a piece from the front and one from the back, which balances the causal attention.
    pieces = 2 * size * (parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1)
    if pieces > 0 and config.data.seq_length % pieces:
        yield Problem(
            f"--data.seq_length {config.data.seq_length} is not divisible by {pieces}, the pieces that --{name} {size} "
            "cuts a sequence into (two per rank, times tensor ranks under sequence parallelism): change one"
        )
    if reads_items(config):
        yield Problem(
            f"--{name} {size} splits sequences, but words are too short to be split: train and measure the alignment "
            "with 1 (checkpoints load at any layout), or leave out --alignment.maintain_interval and the lexicons",
            ("training.stage", "alignment.lexicon_paths"),
        )


def _overlap(config: Config) -> Iterator[Problem]:
    parallel, grads = config.parallel, "parallel.overlap_grad_reduce"
    params = "parallel.overlap_param_gather"
    if parallel.overlap_grad_reduce and config.training.stage == "align_init" and config.alignment.lm_weight == 0:
        yield Problem(
            f"--{grads} waits for a gradient of every parameter, but with --alignment.lm_weight 0 some "
            "have none: turn it off"
        )
    if parallel.ddp_bucket_size is not None and parallel.overlap_grad_reduce is False:
        yield Problem(f"--parallel.ddp_bucket_size needs --{grads}, which is off: turn that on, or leave this out")
    if parallel.overlap_param_gather and not parallel.use_distributed_optimizer:
        yield Problem(f"--{params} needs --parallel.use_distributed_optimizer: turn that on, or leave this out")
    if parallel.overlap_param_gather and reads_items(config):
        yield Problem(
            f"--{params} gathers a layer's parameters when the layer runs, but word vectors use the output layer's "
            "before that: turn it off in runs that align or measure words",
            ("training.stage", "alignment.maintain_interval", "alignment.lexicon_paths"),
        )
    if parallel.overlap_param_gather and parallel.overlap_grad_reduce is False:
        yield Problem(f"--{params} needs --{grads}: turn both on or off")


def _muon(config: Config) -> Iterator[Problem]:
    if config.optimizer.name == "muon" and config.parallel.use_distributed_optimizer:
        yield Problem(
            "--optimizer.name muon orthogonalizes whole matrices, but --parallel.use_distributed_optimizer cuts them "
            "between data-parallel ranks at any place: turn that off, or set this to adamw"
        )


def _fp8(config: Config) -> Iterator[Problem]:
    model, training = config.model, config.training
    if training.fp8 == "none":
        return
    for name, value in (("training.device", training.device), ("model.transformer_impl", model.transformer_impl)):
        if value in ("cpu", "local"):
            yield Problem(
                f"--training.fp8 {training.fp8} needs Transformer Engine layers on a GPU, but --{name} is {value}: set "
                "fp8 to none, or this to auto"
            )
    if training.precision != "bf16":
        yield Problem(
            f"--training.fp8 {training.fp8} needs --training.precision bf16, but that is {training.precision}: set "
            "precision to bf16, or fp8 to none"
        )
    tensor = config.parallel.tensor_model_parallel_size
    for name, width in (("hidden_size", model.hidden_size), ("ffn_hidden_size", model.ffn_hidden_size)):
        if width % (16 * max(tensor, 1)):
            yield Problem(
                f"--training.fp8 {training.fp8} needs --model.{name} to be a multiple of 16 on each of {tensor} tensor "
                f"ranks, got {width}: change it, or set fp8 to none",
                ("parallel.tensor_model_parallel_size",),
            )


def _recompute(config: Config) -> Iterator[Problem]:
    name, count = "training.recompute_num_layers", config.training.recompute_num_layers
    parallel, kind = config.parallel, config.training.recompute
    if count > 1 and kind != "full":
        yield Problem(
            f"--{name} {count} needs --training.recompute full, but that is {kind}: set it to full, or this to 1"
        )
    if kind == "mlp" and config.model.traits.has_linear_bias:
        # The checkpointed MLP returns its bias, which then counts as its result: the backward pass calls itself.
        yield Problem(
            f"--training.recompute mlp never ends in megatron-core with the biases of {config.model.architecture}: use "
            "full or selective",
            ("model.architecture",),
        )
    chunks = parallel.pipeline_model_parallel_size * (parallel.virtual_pipeline_model_parallel_size or 1)
    num_layers = config.model.num_layers // max(chunks, 1)
    if count > 1 and num_layers % count:
        yield Problem(
            f"--{name} {count} does not divide the {num_layers} layers of a pipeline chunk: use a divisor",
            ("model.num_layers", "parallel.pipeline_model_parallel_size"),
        )


def _rampup(config: Config) -> Iterator[Problem]:
    name, rampup = "training.rampup_batch_size", config.training.rampup_batch_size
    if rampup is None:
        return
    full = config.training.global_batch_size
    start, increment, samples = rampup
    if min(start, increment) < 1 or samples < 0:
        yield Problem(
            f"--{name} {start} {increment} {samples} must be a first size and an increment of at least 1, and "
            "samples of at least 0"
        )
    elif start > full or (full - start) % increment:
        yield Problem(
            f"--{name} does not reach --training.global_batch_size {full} from {start} in steps of {increment}: "
            "change one of them"
        )
