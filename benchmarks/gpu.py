"""What steps of one GPU cost: ours in both stages, megatron-core's bare loop and Hugging Face's, each a process.

    python -m benchmarks.gpu                                        # all that this machine can run
    python -m benchmarks.gpu --presets 1b --ways ours bare          # a part
    python -m benchmarks.gpu --write docs/performance.md            # also puts the table into the page
    python -m benchmarks.gpu --device cpu --presets tiny --micro-batch-size 2 --seq-length 128

All train on made-up tokens, which cost what others do. Ours is the whole step of the trainer, guards included; the bare
loop is megatron-core's schedule and optimizer around the same layers; Hugging Face's is compiled on a GPU and runs
under autocast, with PyTorch's attention and fused AdamW. Waits are how often the host waits for the GPU in a step. The
last line is one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.step_memory import values
from benchmarks.step_ways import make_bare_step, make_huggingface_step
from megatron_prealign.checkpoint.huggingface.config import model_config_json
from megatron_prealign.config import Config, config_from_dict
from megatron_prealign.config.counts import count_flops_per_token
from megatron_prealign.model import build_model_chunks
from megatron_prealign.optional_packages import is_usable
from megatron_prealign.platform import (
    Platform,
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
)
from megatron_prealign.testing.trainers import RandomSequences, make_random_trainer
from megatron_prealign.training.loop import Trainer
from megatron_prealign.training.optimizer import build_optimizer, wrap_data_parallel
from megatron_prealign.training.state import TrainState

# Sequences of a step, and their tokens.
SIZES = {"tiny": (8, 1024), "150m": (32, 1024), "400m": (16, 1024), "1b": (8, 1024), "llama-1b": (4, 2048)}
PACKAGES = ("torch", "megatron-core", "transformers")
HEADER = ("way", "model", "stage", "numbers", "layers", "tokens/s", "TFLOP/s", "MFU", "peak GiB", "waits")
WORDS = 1024
_MARKS = "<!-- benchmarks.gpu -->", "<!-- end of benchmarks.gpu -->"


@dataclass(frozen=True)
class Job:
    """What one process measures."""

    way: str
    preset: str
    stage: str
    precision: str
    layers: str
    device: str
    micro_batch_size: int
    seq_length: int
    steps: int

    def config(self) -> Config:
        """Return the run's configuration; its paths are never read."""
        found: dict[str, Any] = {**values(self.preset, 1, self.micro_batch_size, self.seq_length, num_microbatches=1)}
        if self.stage == "align_init":
            found["alignment"] = {"lexicon_paths": ["lexicon"], "word_batch_size": WORDS}
        numbers = {"precision": "bf16", "fp8": "hybrid"} if self.precision == "fp8" else {"precision": self.precision}
        found["training"] = {**found["training"], "stage": self.stage, "device": self.device, **numbers}
        found["model"] = {**found["model"], "transformer_impl": self.layers}
        return config_from_dict(found)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    presets = [name for name in SIZES if name != "tiny"]
    parser.add_argument("--presets", nargs="+", default=presets, choices=SIZES, help="models (default: all but tiny)")
    ways = ("ours", "bare", "huggingface")
    parser.add_argument("--ways", nargs="+", default=ways, choices=ways, help="loops (default: all)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"), help="(default: auto)")
    parser.add_argument("--micro-batch-size", type=int, help="sequences of a step (default: by the model)")
    parser.add_argument("--seq-length", type=int, help="tokens of a sequence (default: by the model)")
    parser.add_argument("--steps", type=int, default=12, help="timed steps, after a third as many (default: 12)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a process may take (default: 600)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help=f"put the table between {_MARKS[0]} and its end")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def list_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Return what this machine can run of what is asked for."""
    device = select_platform(options.device).name
    has_engine = device == "cuda" and is_usable("transformer_engine")
    all_layers = ("local", "transformer_engine") if has_engine else ("local",)
    precision = "bf16" if device == "cuda" else "fp32"
    has_fp8 = has_engine and torch.cuda.get_device_capability() >= (8, 9)
    for preset, way in product(options.presets, options.ways):
        rows, length = SIZES[preset]
        sizes = options.micro_batch_size or rows, options.seq_length or length
        if way == "huggingface":
            yield Job(way, preset, "pretrain", precision, "its own", device, *sizes, options.steps)
            continue
        stages = ("pretrain", "align_init") if way == "ours" else ("pretrain",)
        for stage, layers in product(stages, all_layers):
            yield Job(way, preset, stage, precision, layers, device, *sizes, options.steps)
        if way == "ours" and has_fp8:
            yield Job(way, preset, "pretrain", "fp8", "transformer_engine", device, *sizes, options.steps)


def make_step(job: Job, platform: Platform) -> tuple[Config, Callable[[], Any]]:
    """Build a way; return its configuration and a step of it, whose result is the loss unless it is ours."""
    config = job.config() if job.way != "huggingface" else Job(**{**asdict(job), "layers": "local"}).config()
    if job.way == "ours":
        return config, make_trainer(config, platform).train_step
    initialize_distributed(platform)
    sequences = RandomSequences(config, initialize_model_parallel(config.parallel, config.training.seed))
    step = make_bare_step(config, platform.device) if job.way == "bare" else _huggingface_step(config, platform)

    def next_step() -> torch.Tensor:
        (batch,) = sequences.take(TrainState())
        return step({key: value.to(platform.device, non_blocking=True) for key, value in batch.items()})

    return config, next_step


def make_trainer(config: Config, platform: Platform) -> Trainer:
    """Build a trainer over random data in this process."""
    initialize_distributed(platform)
    mesh = initialize_model_parallel(config.parallel, config.training.seed)
    chunks = wrap_data_parallel(build_model_chunks(config, platform.device), config)
    return make_random_trainer(config, mesh, platform, chunks, build_optimizer(chunks, config))


def _huggingface_step(config: Config, platform: Platform) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = model_config_json(config.model, {}, "float32", config.data.seq_length)
    sizes = AutoConfig.for_model(settings.pop("model_type"), **settings)
    make: Any = AutoModelForCausalLM.from_config
    model = make(sizes, attn_implementation="sdpa").to(platform.device)
    if platform.name == "cuda":
        model.compile()
    step = make_huggingface_step(model, config.optimizer)

    def in_half(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(platform.name, torch.bfloat16, enabled=config.training.precision != "fp32"):
            return step(batch)

    return in_half


def measure(job: Job) -> dict[str, Any]:
    """Run a job in this process; return its numbers."""
    platform = select_platform(job.device)  # type: ignore[arg-type]
    config, step = make_step(job, platform)
    for _ in range(max(1, job.steps // 3)):
        step()
    if platform.name == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(job.steps):
        platform.synchronize()
        started = time.perf_counter()
        step()
        platform.synchronize()
        seconds.append(time.perf_counter() - started)
    tokens = job.micro_batch_size * job.seq_length
    each = statistics.median(seconds)
    flops = tokens * count_flops_per_token(config.model, job.seq_length) / each
    peak = platform.peak_flops()
    return {
        "step_seconds": each,
        "tokens_per_s": tokens / each,
        "teraflops": flops / 1e12,
        "mfu": flops / peak if peak else None,
        "peak_gib": platform.memory_bytes() / 2**30,
        "waits": count_waits(step) if platform.name == "cuda" else None,
    }


def count_waits(step: Callable[[], Any]) -> int:
    """Return how often the host waits for the GPU in a step."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def run(job: Job, timeout: float) -> dict[str, Any]:
    """Run a job in a process of its own; return its numbers, or why there are none."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--job", json.dumps(asdict(job))]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {timeout:.0f} s"}
    if child.returncode:
        lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        return {"failed": "out of memory" if "OutOfMemoryError" in child.stderr else lines[-1][:200]}
    numbers: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return numbers


def make_table(results: Sequence[tuple[Job, dict[str, Any]]]) -> str:
    """Return the results as a table in Markdown."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    for job, found in results:
        cells = [job.way, job.preset, job.stage, job.precision, job.layers.replace("_", " ")]
        if "failed" in found:
            cells += [found["failed"].replace("|", "/"), *[""] * 4]
        else:
            cells += [f"{found['tokens_per_s']:,.0f}", f"{found['teraflops']:.3g}"]
            cells += ["" if found["mfu"] is None else f"{found['mfu']:.1%}", f"{found['peak_gib']:.2f}"]
            cells += ["" if found["waits"] is None else str(found["waits"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_table(page: Path, heading: str, table: str) -> None:
    """Replace what stands between the marks of a page.

    Raises:
        SystemExit: The page lacks them.
    """
    before, opened, rest = page.read_text(encoding="utf-8").partition(_MARKS[0])
    _, closed, after = rest.partition(_MARKS[1])
    if not opened or not closed:
        raise SystemExit(f"error: {page} lacks the lines {_MARKS[0]} and {_MARKS[1]}")
    page.write_text(f"{before}{opened}\n{heading}\n\n{table}\n{closed}{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write the table if asked."""
    options = parse_arguments(argv)
    if options.job:
        print(json.dumps(measure(Job(**json.loads(options.job)))))
        return 0
    jobs = list(list_jobs(options))
    console = Console(stderr=True)
    results = [(job, run(job, options.timeout)) for job in track(jobs, "jobs", console=console)]
    device = torch.cuda.get_device_name() if jobs[0].device == "cuda" else "CPU"
    versions = {name: version(name) for name in PACKAGES}
    table = make_table(results)
    print(table)
    if options.write:
        listed = ", ".join(f"{name} {number}" for name, number in versions.items())
        write_table(options.write, f"{device}, {options.steps} steps, {listed}:", table)
    rows = [{**asdict(job), **found} for job, found in results]
    print(json.dumps({"device": device, "versions": versions, "results": rows}))
    return int(any("failed" in found for _, found in results))


if __name__ == "__main__":
    raise SystemExit(main())
