"""Checks across fields: everything that can be checked before data is opened or a process group exists."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import get_args, get_type_hints

from megatron_prealign.config.alignment_validation import (
    aligns_sentences,
    aligns_words,
    check_alignment,
    measures_retrieval,
)
from megatron_prealign.config.constraints import Problem, Range
from megatron_prealign.config.data_validation import check_data
from megatron_prealign.config.layout_validation import check_layout, check_rampup_batches
from megatron_prealign.config.root import Config


def find_problems(config: Config, *, world_size: int | None = None) -> list[str]:
    """List every problem of a configuration, each with the options concerned and the fix.

    Args:
        config: Whole configuration, preset resolved.
        world_size: Number of ranks; without it, data parallelism is not checked.
    """
    return [problem.message for problem in check(config, world_size=world_size)]


def check(config: Config, *, world_size: int | None = None) -> list[Problem]:
    """Return the problems of `find_problems` with the fields that cause them."""
    problems = [problem for find in _CHECKS for problem in find(config)]
    problems.extend(_world(config, world_size))
    problems.extend(_logging(config, world_size))
    return problems


@cache
def number_ranges() -> dict[str, Range]:
    """Return the range of every number that has one, by "section.field"."""
    return {
        f"{section}.{field}": limits
        for section, section_type in get_type_hints(Config).items()
        for field, hint in get_type_hints(section_type, include_extras=True).items()
        for kind in (hint, *get_args(hint))  # Annotated[...], or a union with it
        for limits in getattr(kind, "__metadata__", ())
        if isinstance(limits, Range)
    }


def model_parallel_size(config: Config) -> int:
    """Return the number of ranks that work on the same sequences."""
    parallel = config.parallel
    return parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size * parallel.context_parallel_size


def count_microbatches(config: Config, world_size: int) -> int:
    """Return the microbatches that each data-parallel rank runs in a step of the full batch size."""
    data_parallel = world_size // model_parallel_size(config)
    return config.training.global_batch_size // (config.training.micro_batch_size * data_parallel)


def _ranges(config: Config) -> Iterator[Problem]:
    """Check every number on its own."""
    for name, limits in number_ranges().items():
        section, field = name.split(".")
        value = getattr(getattr(config, section), field)
        if value is not None and value not in limits:
            yield Problem(f"--{name} must be {limits}, got {value}")


def _divides(divisor: int, number: int) -> bool:
    """Return whether `number` is divisible; also for a divisor below 1, which the range check reports."""
    return divisor < 1 or number % divisor == 0


def _indivisible(config: Config, number: str, divisor: str, fix: str) -> Iterator[Problem]:
    """Check that the field `number` is a multiple of the field `divisor`."""
    values = [getattr(getattr(config, section), field) for section, field in (number.split("."), divisor.split("."))]
    if None not in values and not _divides(values[1], values[0]):
        yield Problem(f"--{number} {values[0]} is not divisible by --{divisor} {values[1]}: {fix}")


def _model(config: Config) -> Iterator[Problem]:
    """Check the shape of the network."""
    model = config.model
    if model.kv_channels is None:
        fix = "every head needs the same whole width"
        yield from _indivisible(config, "model.hidden_size", "model.num_attention_heads", fix)
    yield from _indivisible(
        config, "model.num_attention_heads", "model.num_query_groups", "every group serves the same number of heads"
    )
    if not model.traits.shares_keys and model.num_query_groups not in (None, model.num_attention_heads):
        yield Problem(
            f"--model.num_query_groups {model.num_query_groups} with --model.architecture {model.architecture}: "
            f"{model.traits.title} has no grouped-query attention; set it to none, or use the llama architecture"
        )
    if not model.traits.sets_head_size and model.kv_channels is not None:
        yield Problem(
            f"--model.kv_channels {model.kv_channels} with --model.architecture {model.architecture}: "
            f"{model.traits.title}'s heads are hidden_size / num_attention_heads wide; set it to none, or use qwen3"
        )
    if not model.traits.rotates_part and model.rotary_percent != 1:
        yield Problem(
            f"--model.rotary_percent {model.rotary_percent} with --model.architecture {model.architecture}: "
            f"{model.traits.title} rotates whole heads; set it to 1, or use gpt_neox"
        )
    head_size = model.kv_channels or model.hidden_size // max(model.num_attention_heads, 1)
    rotated = int(head_size * min(model.rotary_percent, 1.0))
    if rotated < 2 or rotated % 2:
        yield Problem(
            f"--model.rotary_percent {model.rotary_percent} rotates {rotated} dimensions of each head, which must be "
            "even and at least 2: change it, --model.hidden_size or --model.num_attention_heads",
            ("model.kv_channels",),
        )
    if model.rope_scaling != "none" and not model.traits.scales_rotary:
        yield Problem(
            f"--model.rope_scaling {model.rope_scaling} with --model.architecture {model.architecture}: "
            f"{model.traits.title} has plain rotary embeddings here; set it to none, or use llama"
        )
    if model.rope_scaling == "llama3" and model.original_max_position_embeddings != _LLAMA3_LENGTH:
        yield Problem(
            f"--model.original_max_position_embeddings {model.original_max_position_embeddings} with "
            f"--model.rope_scaling llama3: megatron-core always scales from {_LLAMA3_LENGTH} tokens; set it to that"
        )
    if model.no_rope_freq is not None and not model.traits.skips_rotary:
        yield Problem(
            f"--model.no_rope_freq {model.no_rope_freq} with --model.architecture {model.architecture}: all layers of "
            f"{model.traits.title} have rotary embeddings; set it to none, or use smollm3"
        )
    if model.transformer_impl == "transformer_engine" and config.training.device == "cpu":
        yield Problem(
            "--model.transformer_impl transformer_engine needs a GPU, but --training.device is cpu: set one to auto"
        )


def _split_over_ranks(config: Config) -> Iterator[Problem]:
    """Check that every tensor and the stack of layers split evenly."""
    model, parallel = config.model, config.parallel
    tensor, pipeline = "parallel.tensor_model_parallel_size", "parallel.pipeline_model_parallel_size"
    equal = "each rank holds an equal share; lower the parallel size"
    for name in ("model.num_attention_heads", "model.ffn_hidden_size"):
        yield from _indivisible(config, name, tensor, equal)
    # If there are more ranks than groups, several ranks share one.
    if not _divides(model.num_query_groups or 1, parallel.tensor_model_parallel_size):
        yield from _indivisible(config, "model.num_query_groups", tensor, equal)
    divisor = model.make_vocab_size_divisible_by
    rows = model.padded_vocab_size if model.vocab_size and divisor > 0 else divisor
    if not _divides(parallel.tensor_model_parallel_size, rows):
        yield Problem(
            f"the vocabulary padded to a multiple of {divisor} does not split over "
            f"--{tensor} {parallel.tensor_model_parallel_size}: set --model.make_vocab_size_divisible_by to a multiple "
            "of it",
            ("model.vocab_size",),
        )
    virtual = parallel.virtual_pipeline_model_parallel_size
    if virtual is not None and parallel.pipeline_model_parallel_size < 2:
        yield Problem(
            f"--parallel.virtual_pipeline_model_parallel_size {virtual} needs --{pipeline} of at least 2: "
            "set it to none"
        )
    chunks = parallel.pipeline_model_parallel_size * (virtual or 1)
    if not _divides(chunks, model.num_layers):
        yield Problem(
            f"--model.num_layers {model.num_layers} does not split into {chunks} equal chunks (pipeline ranks "
            "x virtual chunks): change the layers or the pipeline sizes",
            (pipeline, "parallel.virtual_pipeline_model_parallel_size"),
        )


def _sequence(config: Config) -> Iterator[Problem]:
    """Check sequence lengths."""
    tensor = "parallel.tensor_model_parallel_size"
    longest = config.model.max_position_embeddings
    reads_words = aligns_words(config) or measures_retrieval(config)
    for name, length in (
        ("data.seq_length", config.data.seq_length),
        ("alignment.word_row_length", config.alignment.word_row_length if reads_words else 0),
        ("alignment.max_sentence_tokens", config.alignment.max_sentence_tokens if aligns_sentences(config) else 0),
    ):
        if length > longest:
            yield Problem(
                f"--{name} {length} is longer than --model.max_position_embeddings {longest}: lower one or "
                "raise the other"
            )
    if config.parallel.sequence_parallel:
        if config.parallel.tensor_model_parallel_size < 2:
            yield Problem(
                f"--parallel.sequence_parallel needs --{tensor} of at least 2: raise it, or turn sequence "
                "parallelism off"
            )
        yield from _indivisible(config, "data.seq_length", tensor, "sequence parallelism splits each sequence")


def _schedule(config: Config) -> Iterator[Problem]:
    """Check learning rates over steps."""
    optimizer, schedule = config.optimizer, config.schedule
    if optimizer.min_lr > optimizer.lr:
        yield Problem(
            f"--optimizer.min_lr {optimizer.min_lr} is above --optimizer.lr {optimizer.lr}: the rate must not rise at "
            "the end; lower min_lr"
        )
    last = "schedule.lr_decay_steps" if schedule.lr_decay_steps is not None else "training.train_steps"
    decay_steps = schedule.lr_decay_steps or config.training.train_steps
    if schedule.lr_warmup_steps >= decay_steps:
        yield Problem(
            f"--schedule.lr_warmup_steps {schedule.lr_warmup_steps} leaves no step of --{last} {decay_steps}: "
            "shorten the warm-up"
        )
    elif (schedule.lr_wsd_decay_steps or 0) > decay_steps - schedule.lr_warmup_steps:
        yield Problem(
            f"--schedule.lr_wsd_decay_steps {schedule.lr_wsd_decay_steps} is longer than the "
            f"{decay_steps - schedule.lr_warmup_steps} steps after the warm-up: shorten it",
            ("schedule.lr_warmup_steps", last),
        )


def _batches(config: Config) -> Iterator[Problem]:
    """Check batch sizes, as far as they do not depend on the world size."""
    yield from _indivisible(
        config, "training.global_batch_size", "training.micro_batch_size", "a step is a whole number of microbatches"
    )
    virtual, pipeline = "parallel.virtual_pipeline_model_parallel_size", "parallel.pipeline_model_parallel_size"
    if config.parallel.virtual_pipeline_model_parallel_size is not None:
        for kind, is_aligned in (("word", aligns_words(config)), ("sentence", aligns_sentences(config))):
            number = f"alignment.num_{kind}_microbatches"
            problems = _indivisible(config, number, pipeline, "interleaved pipelines run whole rounds")
            yield from (Problem(problem.message, (*problem.fields, virtual)) for problem in problems if is_aligned)


def _world(config: Config, world_size: int | None) -> Iterator[Problem]:
    """Check what depends on the number of ranks."""
    model_parallel = model_parallel_size(config)
    if world_size is None or model_parallel < 1:
        return
    training, parallel = config.training, config.parallel
    axes: tuple[str, ...] = ("parallel.tensor_model_parallel_size", "parallel.pipeline_model_parallel_size")
    layout = f"{parallel.tensor_model_parallel_size} tensor x {parallel.pipeline_model_parallel_size} pipeline"
    if parallel.context_parallel_size > 1:
        layout += f" x {parallel.context_parallel_size} context"
        axes += ("parallel.context_parallel_size",)
    if world_size % model_parallel:
        lower = " or ".join(f"--{axis}" for axis in axes)
        yield Problem(
            f"the world size {world_size} is not divisible by {model_parallel} = {layout} parallel ranks: start a "
            f"multiple of {model_parallel} (torchrun --nproc-per-node) or lower {lower}",
            axes,
        )
        return
    data_parallel = world_size // model_parallel
    per_pass = training.micro_batch_size * data_parallel
    if _divides(training.micro_batch_size, training.global_batch_size):
        num_microbatches = training.global_batch_size // max(per_pass, 1)
        if not _divides(per_pass, training.global_batch_size):
            yield Problem(
                f"--training.global_batch_size {training.global_batch_size} is not divisible by {per_pass} = "
                f"--training.micro_batch_size {training.micro_batch_size} x {data_parallel} data-parallel ranks: "
                f"use a multiple of {per_pass}",
                axes,
            )
        elif parallel.virtual_pipeline_model_parallel_size and num_microbatches % parallel.pipeline_model_parallel_size:
            yield Problem(
                f"an interleaved pipeline of {parallel.pipeline_model_parallel_size} ranks needs a multiple of "
                f"{parallel.pipeline_model_parallel_size} microbatches, got {num_microbatches}: change "
                "--training.global_batch_size",
                ("training.micro_batch_size", *axes),
            )
    yield from check_rampup_batches(config, data_parallel)


def _run(config: Config) -> Iterator[Problem]:
    """Check the run folder and the starting point."""
    init_from = config.checkpoint.init_from
    if not config.training.run_path:
        yield Problem("--training.run_path is not given: name the folder of this run")
    elif os.path.isfile(config.training.run_path):
        yield Problem(f"--training.run_path {config.training.run_path} is a file: name a folder")
    if config.checkpoint.init_optimizer and init_from is None:
        yield Problem(
            "--checkpoint.init_optimizer loads the optimizer of --checkpoint.init_from, which is not given: give it, "
            "or leave init_optimizer out"
        )
    # A run with its own checkpoint continues from that; its starting point may have been moved.
    if init_from is not None and not (_has_checkpoint(init_from) or _has_checkpoint(config.training.run_path)):
        yield Problem(
            f"--checkpoint.init_from {init_from} holds no checkpoint: name a run folder or a checkpoint in it, or "
            "leave it out to start from fresh weights"
        )


def _has_checkpoint(path: str) -> bool:
    return any(os.path.exists(os.path.join(path, name)) for name in _CHECKPOINT_MARKS)


def _logging(config: Config, world_size: int | None) -> Iterator[Problem]:
    """Check the trackers and the profiler."""
    logging, train_steps = config.logging, config.training.train_steps
    for name, needed in (("wandb_name", "wandb_project"), ("mlflow_tracking_uri", "mlflow_experiment")):
        if getattr(logging, name) is not None and getattr(logging, needed) is None:
            yield Problem(
                f"--logging.{name} {getattr(logging, name)} without --logging.{needed}: nothing would be sent; give "
                "both or neither"
            )
    steps = logging.profile_steps
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1] <= train_steps):
        yield Problem(
            f"--logging.profile_steps {list(steps)} must be the first and the last step of the trace, from 1 to "
            f"--training.train_steps {train_steps}"
        )
    absent = [rank for rank in logging.profile_ranks if rank < 0 or (world_size is not None and rank >= world_size)]
    if steps and absent:
        ranks = "at least 0" if world_size is None else f"from 0 to {world_size - 1}"
        yield Problem(f"--logging.profile_ranks {absent}: no such rank; ranks are {ranks}")
    if logging.profile_nvtx and (not steps or config.training.device == "cpu"):
        yield Problem(
            "--logging.profile_nvtx marks the steps of --logging.profile_steps on cuda: give those steps and a GPU, "
            "or leave it out",
            ("training.device",),
        )


_LLAMA3_LENGTH = 8192
"""megatron-core has no setting for it."""

_CHECKPOINT_MARKS = ("checkpoints", "state.json")
"""Names in a run folder and in a single checkpoint."""

_CHECKS: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _ranges,
    _model,
    _split_over_ranks,
    _sequence,
    _schedule,
    _batches,
    check_layout,
    check_data,
    _run,
    check_alignment,
)
