"""What records cost: steps with metrics against the same steps without.

    python benchmarks/metrics.py     # 4 layers x 256, 512 tokens a step; about 2 minutes on 2 cores

Baseline: the same loop with one sum of the loss in place of sums by language and at switched positions, without records
and trackers. Against it stand records every 10 steps, as by default, and after every step, both with TensorBoard. Every
repeat builds the same run afresh and takes the same steps, in turns; the first steps are left out. What counts is the
median of the repeats' mean steps. The last line of the output is a JSON object.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest import mock

import pycountry
import torch
from torch import Tensor

from megatron_prealign.testing.trainers import make_trainer
from megatron_prealign.training.objectives import language_modelling
from megatron_prealign.training.objectives.language_modelling import masked_sum

INTERVALS = {"without": 0, "every_10_steps": 10, "every_step": 1}
NUM_LEFT_OUT = 10
NUM_DOCUMENTS = 400
DOCUMENT_WORDS = 400
PACKAGES = ("torch", "megatron-core", "tensorboard")


class StepClock:
    """Takes the place of the profiler window and notes when each step begins: records lie between two of them."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def before_step(self, step: int) -> None:
        """Note the time."""
        self.starts.append(time.perf_counter())

    def after_step(self, step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def write_data(folder: Path) -> Path:
    """Bake documents of the world's language names in random order; return the prefix."""
    words = [word for language in pycountry.languages for word in language.name.split()]
    draw = random.Random(0)
    with (folder / "names.jsonl").open("w", encoding="utf-8") as stream:
        for _ in range(NUM_DOCUMENTS):
            stream.write(json.dumps({"text": " ".join(draw.choices(words, k=DOCUMENT_WORDS))}) + "\n")
    tokenizer = str(files("mistral_common") / "data" / "tokenizer.model.v1")
    bake = [sys.executable, "tools/preprocess_codeswitch.py", "--input", str(folder / "names.jsonl"), "--append-eod"]
    bake += ["--tokenizer-model", tokenizer, "--output-prefix", str(folder / "names")]
    subprocess.run(bake, check=True, cwd=Path(__file__).parents[1])
    return folder / "names_text_document"


def configuration(prefix: Path, run_path: Path, interval: int, num_steps: int) -> dict[str, dict[str, Any]]:
    """Return a small model's run."""
    return {
        "model": {
            "num_layers": 4,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "ffn_hidden_size": 688,
            "max_position_embeddings": 128,
        },
        "data": {
            "tokenizer_path": str(files("mistral_common") / "data" / "tokenizer.model.v1"),
            "blend": [{"prefix": str(prefix), "language": "en"}],
            "seq_length": 128,
            "split": "100,0,0",
        },
        "training": {
            "stage": "pretrain",
            "run_path": str(run_path),
            "train_steps": num_steps,
            "micro_batch_size": 4,
            "global_batch_size": 4,
            "eval_interval": 0,
            "device": "cpu",
        },
        "logging": {"log_interval": interval or num_steps, "tensorboard": interval > 0},
    }


def _one_sum(losses: Tensor, loss_mask: Tensor, loss_group: Tensor, num_languages: int) -> Tensor:
    sums = torch.zeros(num_languages, 2, 2, dtype=torch.float64)
    sums[0, 0, 0] = masked_sum(losses, loss_mask)
    return sums


@contextlib.contextmanager
def _sums_of(interval: int) -> Iterator[None]:
    if interval:
        yield
    else:
        with mock.patch.object(language_modelling, "grouped_sums", _one_sum):
            yield


def mean_step_seconds(values: dict[str, dict[str, Any]], interval: int) -> float:
    """Return the mean time from one step's begin to the next one's, in seconds."""
    trainer = make_trainer(values)
    clock = StepClock()
    trainer.profile = clock  # type: ignore[assignment]
    with _sums_of(interval):
        trainer.train()
    starts = clock.starts[NUM_LEFT_OUT:]
    return mean(after - before for before, after in pairwise(starts))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4, help="runs of each kind (4)")
    parser.add_argument("--steps", type=int, default=31, help="steps of each run (31)")
    options = parser.parse_args(argv)
    seconds: dict[str, list[float]] = {name: [] for name in INTERVALS}
    with tempfile.TemporaryDirectory() as folder:
        prefix = write_data(Path(folder))
        for repeat in range(options.repeats):
            for name, interval in INTERVALS.items():
                values = configuration(prefix, Path(folder) / f"{name}_{repeat}", interval, options.steps)
                seconds[name].append(mean_step_seconds(values, interval))
    steps = {name: median(found) for name, found in seconds.items()}
    result = {
        "vs_without_every_10_steps": round(steps["every_10_steps"] / steps["without"], 4),
        "vs_without_every_step": round(steps["every_step"] / steps["without"], 4),
        "step_seconds": {name: round(found, 5) for name, found in steps.items()},
        "all_step_seconds": {name: [round(one, 5) for one in found] for name, found in seconds.items()},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
