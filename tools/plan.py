"""Estimate memory, speed and cost of a training run on a cluster, and find the layouts that fit.

    python tools/plan.py --gpu h100 --gpus 64 --price 2.5 --config pretrain.yaml [--section.field VALUE ...]

The configuration is that of pretrain_prealign.py; data and run folder may be missing. The first part of the answer is
its own layout, the second the fastest ones that fit. Speeds are ranges, from good to poor use of the hardware: measure
a few hundred steps before you trust either end.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from megatron_prealign.checkpoint.folder import checkpoint_bytes
from megatron_prealign.command_line import HelpFormatter, tool
from megatron_prealign.config import PRESETS, Config, find_problems, read_config
from megatron_prealign.config.planning import GPUS, Bounds, Cluster, Estimate, all_layouts, estimate, fitting
from megatron_prealign.config.training import count_samples
from megatron_prealign.errors import ConfigError

_GIB = 2**30
_HOUR = 3600.0
_BYTES_PER_TOKEN = 4
# Of one core of an AMD EPYC with Hugging Face's tokenizers (docs/performance.md).
_BAKE_MB = 2.4


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("--gpu", choices=GPUS, required=True, help="kind of GPU (NVIDIA's SXM modules)")
    parser.add_argument("--gpus", type=_positive_int, required=True, help="number of GPUs")
    parser.add_argument("--gpus-per-node", type=_positive_int, default=8, help="GPUs that NVLink connects")
    parser.add_argument(
        "--network-gb",
        type=_positive,
        default=50.0,
        help="GB/s between nodes for each GPU; 50 = 400 Gb/s",
    )
    parser.add_argument("--storage-gb", type=_positive, default=5.0, help="GB/s in which all nodes write a checkpoint")
    parser.add_argument("--price", type=_positive, help="price of a GPU hour, in any currency")
    parser.add_argument("--reserve-gib", type=_positive, default=6.0, help="GiB per GPU left for what is not estimated")
    parser.add_argument("--bake-cores", type=_positive_int, help="CPU cores that bake; prints the hours of the bake")
    parser.add_argument("--bake-mb", type=_positive, default=_BAKE_MB, help="MB of text that a core bakes in a second")
    parser.add_argument(
        "--corpus-gb",
        type=_positive,
        help=f"GB of text to bake; default: {_BYTES_PER_TOKEN} bytes for each token of the run",
    )
    parser.add_argument("--layouts", type=_positive_int, default=8, help="number of layouts to list")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 1 if no layout fits."""
    arguments, rest = build_parser().parse_known_args(argv)
    config = _resolved(read_config(rest))
    cluster = Cluster(
        gpu=GPUS[arguments.gpu],
        num_gpus=arguments.gpus,
        gpus_per_node=arguments.gpus_per_node,
        network_gb=arguments.network_gb,
        reserve_gib=arguments.reserve_gib,
    )
    console = Console(width=118)
    wrong = layout_problems(config, cluster.num_gpus)
    if wrong:
        console.print("The configuration's own layout does not run on these GPUs:", *wrong, sep="\n  ", highlight=False)
    else:
        console.print(*_own_layout(estimate(config, cluster), cluster, arguments), sep="\n", highlight=False)
    if arguments.bake_cores is not None:
        console.print(_bake(config, arguments), highlight=False)
    if config.training.precision == "fp32" or config.training.fp8 != "none":
        console.print("Speeds are those of bf16, not of the configuration's precision.", highlight=False)
    running = all_layouts(config, cluster)
    layouts = fitting(running, cluster)
    if layouts:
        console.print(_table(layouts[: arguments.layouts], arguments), highlight=False)
    console.print(_count(running, layouts, config, cluster), highlight=False)
    return 0 if layouts else 1


def _bake(config: Config, arguments: argparse.Namespace) -> str:
    """Return how long the text takes to become a dataset."""
    tokens = count_samples(config.training) * config.data.seq_length
    corpus_gb = arguments.corpus_gb or tokens * _BYTES_PER_TOKEN / 1e9
    hours = corpus_gb * 1000 / arguments.bake_mb / arguments.bake_cores / _HOUR
    return (
        f"The bake           {hours:,.3g} hours on {arguments.bake_cores:,} cores: {corpus_gb:,.4g} GB of text, "
        f"{arguments.bake_mb:g} MB a second and core"
    )


def _count(running: list[Estimate], layouts: list[Estimate], config: Config, cluster: Cluster) -> str:
    """Return how many layouts fit, or why none does."""
    if layouts:
        return f"{len(layouts)} of {len(running)} layouts fit; words and sentences of an alignment are not counted."
    if not running:
        return (
            f"No layout runs: no data-parallel size of {cluster.num_gpus} GPUs divides --training.global_batch_size "
            f"{config.training.global_batch_size}, or something else of the above is wrong. Change one of them."
        )
    smallest = min(layout.peak_bytes for layout in running) / _GIB
    return (
        f"None of {len(running)} layouts fits in {cluster.room_gib:g} GiB; the smallest needs {smallest:.1f}. Add GPUs."
    )


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e12:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def _positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _resolved(config: Config) -> Config:
    """Return the configuration with a vocabulary.

    Raises:
        ConfigError: It names neither one, nor a tokenizer that is there, nor a preset.
    """
    vocab_size, tokenizer = config.model.vocab_size, config.data.tokenizer_path
    if vocab_size is None and tokenizer and Path(tokenizer).exists():
        from megatron_prealign.text.tokenizer import load_tokenizer  # deferred: it imports the tokenizers library

        vocab_size = load_tokenizer(Path(tokenizer)).vocab_size
    if vocab_size is None and config.model.preset is not None:
        vocab_size = PRESETS[config.model.preset].vocab_size
    if vocab_size is None:
        raise ConfigError(
            "--model.vocab_size is not given, and no tokenizer is at --data.tokenizer_path: name the size, or a "
            "--model.preset"
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))


def layout_problems(config: Config, world_size: int) -> list[str]:
    """Return why the configuration does not run on so many ranks, apart from files that it names or lacks."""
    files = (f"--alignment.{kind}" for kind in ("lexicon", "held_out", "sentence"))
    others = ("--data.", "--training.run_path", "--checkpoint.", "--logging.", *files)
    return [problem for problem in find_problems(config, world_size=world_size) if not problem.startswith(others)]


def _own_layout(layout: Estimate, cluster: Cluster, arguments: argparse.Namespace) -> list[object]:
    memory = Table(
        "GiB on pipeline rank", *map(str, range(len(layout.memory))), title="Memory of the configuration's layout"
    )
    for field in dataclasses.fields(layout.memory[0]):
        memory.add_row(field.name, *(f"{getattr(rank, field.name) / _GIB:.2f}" for rank in layout.memory))
    memory.add_row("in total", *(f"{rank.total / _GIB:.2f}" for rank in layout.memory))
    step = Table("", "seconds", title="A step")
    for name, bounds in layout.parts.items():
        step.add_row(name, _range(bounds, ".3g"))
    step.add_row("in total", _range(layout.step_seconds, ".3g"))
    fits = "fits in" if layout.peak_bytes <= cluster.room_gib * _GIB else "does NOT fit in"
    size, days = checkpoint_bytes(layout.config), _days(layout)
    lines = [
        f"It {fits} {cluster.room_gib:g} GiB of each GPU.",
        f"Tokens per second  {_range(layout.tokens_per_second, ',.0f')}",
        f"MFU                {_range(layout.mfu, '.1%')}",
        f"GPU hours          {_range((24 * days[0] * arguments.gpus, 24 * days[1] * arguments.gpus), ',.0f')}",
        f"Days               {_range(days, '.3g')}",
        *([] if arguments.price is None else [f"Cost               {_range(_cost(layout, arguments), ',.0f')}"]),
        f"A checkpoint       {decimal(size)}, {size / arguments.storage_gb / 1e9:.3g} s to write",
    ]
    return [memory, step, *lines]


def _table(layouts: list[Estimate], arguments: argparse.Namespace) -> Table:
    cost = [] if arguments.price is None else ["cost"]
    columns = ("TP", "PP", "VPP", "micro", "recompute", "GiB", "MFU", "tokens/s", "days", *cost, "slowed most by")
    table = Table(*columns, title="Layouts that fit, fastest first; within 3 % the simplest first")
    for layout in layouts:
        parallel, training = layout.config.parallel, layout.config.training
        table.add_row(
            str(parallel.tensor_model_parallel_size),
            str(parallel.pipeline_model_parallel_size),
            str(parallel.virtual_pipeline_model_parallel_size or ""),
            str(training.micro_batch_size),
            training.recompute,
            f"{layout.peak_bytes / _GIB:.1f}",
            _range((100 * layout.mfu[0], 100 * layout.mfu[1]), ".0f") + " %",
            _range((layout.tokens_per_second[0] / 1000, layout.tokens_per_second[1] / 1000), ",.0f") + " k",
            _range(_days(layout), ".3g"),
            *(_range(_cost(layout, arguments), ",.0f") for _ in cost),
            max(layout.parts.items(), key=lambda part: sum(part[1]) * (part[0] != "matrix products"))[0],
        )
    return table


def _days(layout: Estimate) -> Bounds:
    low, high = layout.run_seconds()
    return low / _HOUR / 24, high / _HOUR / 24


def _cost(layout: Estimate, arguments: argparse.Namespace) -> Bounds:
    low, high = layout.run_seconds()
    return low / _HOUR * arguments.gpus * arguments.price, high / _HOUR * arguments.gpus * arguments.price


def _range(bounds: Bounds, style: str) -> str:
    low, high = (format(bound, style) for bound in bounds)
    return low if low == high else f"{low} - {high}"


if __name__ == "__main__":
    raise SystemExit(main())
