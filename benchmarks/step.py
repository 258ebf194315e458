"""What a training step costs, against a bare megatron-core loop and against Hugging Face.

    python -m benchmarks.step --starts 3    # eight minutes on two cores; five starts are the default
    python -m benchmarks.step --table       # our loop alone: 256 to 4,096 tokens, 4 to 32 layers; far longer

Three ways train the same Llama (8 layers x 384, vocabulary 32,000) from the same weights on the same sequences of 512
tokens, on the CPU in fp32: our loop as it is, with its data loading and a record every ten steps; megatron-core's
schedule and optimizer around the same layers, on batches that are in memory; and LlamaForCausalLM (sdpa) with
torch's AdamW, fused, on the same. Each is a process of its own, so that its peak memory is its own; they take turns,
the first step of which is not timed, since the system may have put aside the memory of a process that lay idle.
All are started afresh several times, since where a process finds its memory makes its steps some percent faster or
slower for as long as it lives. The ratios are medians over the starts, of each start's mean turns.
The text is Python's own reference, the tokenizer the 32,000-token SentencePiece model of the package mistral-common.
The last line is one JSON object.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from itertools import product
from pathlib import Path
from pydoc_data.topics import topics
from statistics import mean, median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.step_ways import BATCHES, CONFIG, WAYS, WEIGHTS
from megatron_prealign.bake.bake import bake
from megatron_prealign.bake.options import BakeOptions
from megatron_prealign.checkpoint.huggingface.config import model_config_json
from megatron_prealign.checkpoint.huggingface.mapping import to_huggingface
from megatron_prealign.config import Config, config_from_dict, dump_config
from megatron_prealign.dataset.blend import build_train_dataset
from megatron_prealign.dataset.sampler import StepLoader
from megatron_prealign.model import build_model_chunks
from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform
from megatron_prealign.text.tokenizer import load_tokenizer

TOKENIZER = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
PACKAGES = ("torch", "megatron-core", "transformers", "mistral-common")
STEPS_PER_TURN = 5  # of which the first is not timed
TABLE_LENGTHS = (256, 512, 1024, 2048, 4096)
TABLE_LAYERS = (4, 8, 16, 32)
_CONSOLE = Console(stderr=True)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="times that each way is started afresh; 1 for --table")
    parser.add_argument("--repeats", type=int, default=4, help="timed turns of a start, after one that warms up")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each way")
    parser.add_argument("--table", action="store_true", help="show how our step's cost grows instead")
    return parser.parse_args(argv)


def count_steps(repeats: int) -> int:
    """Return the steps of a way; it learns that its last turn is over when it asks for the step behind."""
    return (1 + repeats) * STEPS_PER_TURN + 1


def make_config(folder: Path, num_layers: int, seq_length: int, batch_size: int, num_steps: int) -> Config:
    """Return a run over the baked text, all of whose steps cost the same."""
    model = {
        "num_layers": num_layers,
        "hidden_size": 384,
        "num_attention_heads": 6,
        "ffn_hidden_size": 1024,
        "max_position_embeddings": seq_length,
        "vocab_size": load_tokenizer(TOKENIZER).vocab_size,
        "untie_embeddings_and_output_weights": True,
    }
    training = {
        "run_path": str(folder / f"run-{num_layers}-{seq_length}"),
        "train_steps": num_steps,
        "micro_batch_size": batch_size,
        "global_batch_size": batch_size,
        "eval_interval": 0,
        "device": "cpu",
    }
    return config_from_dict(
        {
            "model": model,
            "data": {
                "tokenizer_path": str(TOKENIZER),
                "blend": [{"prefix": str(folder / "english_text_document")}],
                "seq_length": seq_length,
                "split": "1,0,0",
            },
            "schedule": {"lr_decay_style": "constant"},
            "training": training,
            "checkpoint": {"save_interval": num_steps + 1},
        }
    )


def bake_text(folder: Path) -> None:
    """Bake the pages of Python's reference."""
    lines = (json.dumps({"text": text}) + "\n" for _, text in sorted(topics.items()))
    (folder / "english.jsonl").write_text("".join(lines), encoding="utf-8")
    options = BakeOptions(
        input_paths=(folder / "english.jsonl",),
        tokenizer_path=TOKENIZER,
        output_prefix=folder / "english",
        append_eod=True,
    )
    bake(options, show_progress=False)


def write_others(folder: Path, config: Config) -> None:
    """Write what the other ways start from: our batches, our initial weights."""
    training = config.training
    dataset = build_train_dataset(
        config.data,
        load_tokenizer(TOKENIZER),
        num_samples=training.train_steps * training.global_batch_size,
        seed=training.seed,
    )
    loader = StepLoader(
        dataset,
        micro_batch_size=training.micro_batch_size,
        global_batch_size=training.global_batch_size,
        prefetch=False,
    )
    steps = [batch for (batch,) in loader][: training.train_steps]
    save_file({name: torch.stack([step[name] for step in steps]) for name in steps[0]}, folder / BATCHES)
    platform = select_platform("cpu")
    initialize_distributed(platform)
    initialize_model_parallel(config.parallel, training.seed)
    (chunk,) = build_model_chunks(config, platform.device)
    (folder / WEIGHTS).mkdir()
    save_file(
        to_huggingface(dict(chunk.named_parameters()), config.model),
        folder / WEIGHTS / "model.safetensors",
        metadata={"format": "pt"},
    )
    model = model_config_json(config.model, {"bos_token_id": 1, "eos_token_id": 2}, "float32", config.data.seq_length)
    (folder / WEIGHTS / "config.json").write_text(json.dumps(model), encoding="utf-8")


@dataclass
class Way:
    """One way: its process, and what its timed turns cost."""

    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @classmethod
    def start(cls, name: str, folder: Path, threads: int) -> "Way":
        """Start the process and let it warm up, which also takes all memory that it will need."""
        command = [sys.executable, "-m", "benchmarks.step_ways", name, str(folder), str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        log = (folder / f"{name}.log").open("w", encoding="utf-8")
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        way = cls(process)
        try:
            way.take_turn()
        except json.JSONDecodeError:
            raise SystemExit(f"error: {name} ended:\n{(folder / f'{name}.log').read_text(encoding='utf-8')}") from None
        way.seconds.clear()
        way.waited.clear()
        return way

    def take_turn(self) -> None:
        """Let it train its steps and note what they cost."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{STEPS_PER_TURN}\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.seconds.append(answer["seconds"] / (STEPS_PER_TURN - 1))
        self.waited.append(answer["waited"] / (STEPS_PER_TURN - 1))
        self.losses.append(answer["loss"])
        self.peak_bytes = answer["peak_bytes"]

    def end(self) -> None:
        """Let the process end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def run_ways(names: Sequence[str], folder: Path, threads: int, repeats: int) -> dict[str, Way]:
    """Start the ways one after the other, then let them take turns."""
    ways = {name: Way.start(name, folder, threads) for name in names}
    order = random.Random(repeats)  # so that none always comes behind the same other
    for _ in range(repeats):
        for name in order.sample(names, len(names)):
            ways[name].take_turn()
    for way in ways.values():
        way.end()
    return ways


def summarize(starts: Sequence[dict[str, Way]]) -> dict[str, Any]:
    """Return what the last line says of three ways that were started one or more times."""
    seconds = {name: [mean(start[name].seconds) for start in starts] for name in WAYS}
    peak_bytes = {name: [start[name].peak_bytes for start in starts] for name in WAYS}
    waits = [sum(start["ours"].waited) / sum(start["ours"].seconds) for start in starts]
    return {
        "vs_bare_mcore": median_ratio(seconds["bare"], seconds["ours"]),
        "vs_hf": median_ratio(seconds["huggingface"], seconds["ours"]),
        "peak_memory_vs_hf": median_ratio(peak_bytes["ours"], peak_bytes["huggingface"]),
        "data_wait_share": round(median(waits), 5),
        "largest_loss_difference": {
            name: max(
                abs(loss - other)
                for start in starts
                for loss, other in zip(start["ours"].losses, start[name].losses, strict=True)
            )
            for name in ("bare", "huggingface")
        },
        "step_seconds": {name: [[round(turn, 4) for turn in start[name].seconds] for start in starts] for name in WAYS},
        "peak_bytes": peak_bytes,
    }


def median_ratio(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the median over the starts of one way's number over another's."""
    return round(median(one / other for one, other in zip(left, right, strict=True)), 4)


def compare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the three ways; return what the last line says."""
    config = make_config(folder, 8, 512, 4, count_steps(options.repeats))
    (folder / CONFIG).write_text(dump_config(config), encoding="utf-8")
    write_others(folder, config)
    starts = [
        run_ways(list(WAYS), folder, options.threads, options.repeats)
        for _ in track(range(options.starts), "starts", console=_CONSOLE)
    ]
    table = Table("way", "s a step", "of each start", "tokens/s", "peak MB", "loss of first steps", "of last steps")
    tokens = config.training.global_batch_size * config.data.seq_length
    for name in WAYS:
        ways = [start[name] for start in starts]
        seconds = [mean(way.seconds) for way in ways]
        table.add_row(
            name,
            f"{median(seconds):.3f}",
            " ".join(f"{one:.3f}" for one in seconds),
            f"{tokens / median(seconds):,.0f}",
            f"{median(way.peak_bytes for way in ways) / 1e6:,.0f}",
            f"{ways[0].losses[0]:.5f}",
            f"{ways[0].losses[-1]:.5f}",
        )
    _CONSOLE.print(table)
    return summarize(starts)


def tabulate(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure our loop over lengths and layers at 4,096 tokens a step; return what the last line says."""
    table = Table("layers", "sequence", "s a step", "tokens/s", "peak MB", title="Our loop, 4,096 tokens a step")
    rows = []
    num_steps = count_steps(options.repeats)
    for num_layers, seq_length in track(list(product(TABLE_LAYERS, TABLE_LENGTHS)), "models", console=_CONSOLE):
        config = make_config(folder, num_layers, seq_length, 4096 // seq_length, num_steps)
        (folder / CONFIG).write_text(dump_config(config), encoding="utf-8")
        way = run_ways(["ours"], folder, options.threads, options.repeats)["ours"]
        seconds = median(way.seconds)
        table.add_row(
            str(num_layers),
            f"{seq_length:,}",
            f"{seconds:.2f}",
            f"{4096 / seconds:,.0f}",
            f"{way.peak_bytes / 1e6:,.0f}",
        )
        rows.append(
            {
                "num_layers": num_layers,
                "seq_length": seq_length,
                "step_seconds": round(seconds, 4),
                "peak_bytes": way.peak_bytes,
            }
        )
    _CONSOLE.print(table)
    return {"table": rows}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = parse_arguments(argv)
    with tempfile.TemporaryDirectory(prefix="prealign-step-") as name:
        bake_text(Path(name))
        measure = tabulate if options.table else compare
        result = measure(Path(name), options)
    facts = {
        "starts": 1 if options.table else options.starts,
        "repeats": options.repeats,
        "threads": options.threads,
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    print(json.dumps({**result, **facts}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
