"""What the alignment loss costs beside the forward and backward pass over the same words, and how much is padding.

    python benchmarks/align.py     # 24 layers x 1,024, 2,048 words, and smaller widths; about 10 minutes

Baseline: the same model on the same rows of packed words, forward and backward without a loss at any tap, in the same
process, in turns. Both recompute the layers in the backward pass, so that 24 layers fit into a laptop's memory; the
forward pass that this adds is timed by itself and taken off the baseline. Words are the names of languages in English
and German, as the package pycountry has them, in the 32,000-token SentencePiece model of the package mistral-common.
The last line of the output is a JSON object.
"""

import argparse
import gettext
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import pycountry
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from megatron_prealign.alignment import AlignmentLoss, ContrastiveTargets, ItemMicrobatch, Taps
from megatron_prealign.config import Config, config_from_dict
from megatron_prealign.config.alignment import tap_weights
from megatron_prealign.lexicon import Lexicon, LexiconEntry, Translation
from megatron_prealign.model import build_model_chunks
from megatron_prealign.pairs.batches import ItemBatch
from megatron_prealign.pairs.words import WordBatches, WordTable
from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform
from megatron_prealign.text.tokenizer import load_tokenizer
from megatron_prealign.training.objectives.alignment import run_items, to_microbatch

TEMPERATURE = 0.1
PACKAGES = ("torch", "megatron-core", "numpy", "mistral-common", "pycountry")


@dataclass(frozen=True)
class Measured:
    """Medians of one model."""

    hidden_size: int
    forward_seconds: float
    """Forward pass alone."""
    baseline_seconds: float
    """Forward and backward pass with recomputation, without losses."""
    aligned_seconds: float
    """The same with the loss of every tap."""

    @property
    def pass_seconds(self) -> float:
        """Forward and backward pass as without recomputation."""
        return self.baseline_seconds - self.forward_seconds

    @property
    def loss_overhead(self) -> float:
        """Time that the losses add, as a share of forward and backward pass."""
        return (self.aligned_seconds - self.baseline_seconds) / self.pass_seconds


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--num-layers", type=int, default=24, help="layers of the model")
    parser.add_argument(
        "--hidden-size", type=int, nargs="+", default=[256, 512, 1024], help="widths; the last one is what counts"
    )
    parser.add_argument("--num-words", type=int, default=2048, help="words of the microbatch: pairs x 2")
    parser.add_argument("--row-length", type=int, default=64, help="positions of a row of packed words")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes of each kind, in turns; medians are shown")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where to run")
    return parser.parse_args(argv)


def language_names() -> Lexicon:
    """Return the names of the world's languages in English and German, those of one word in both."""
    translate = gettext.translation("iso639-3", pycountry.LOCALES_DIR, languages=["de"]).gettext
    pairs = {(language.name, translate(language.name)) for language in pycountry.languages}
    chosen = sorted((source, target) for source, target in pairs if source.isalpha() and target.isalpha())
    return Lexicon("en", tuple(LexiconEntry(source, (Translation(target, "de"),)) for source, target in chosen))


def make_batch(options: argparse.Namespace) -> tuple[ItemBatch, int]:
    """Return one word microbatch and the tokenizer's vocabulary size."""
    tokenizer = load_tokenizer(Path(str(files("mistral_common") / "data" / "tokenizer.model.v1")))
    table = WordTable.build(language_names(), tokenizer, max_word_tokens=16)
    batches = WordBatches(table, seed=0, word_batch_size=options.num_words // 2, row_length=options.row_length)
    return batches.batch(0), tokenizer.vocab_size


def make_config(options: argparse.Namespace, hidden_size: int, vocab_size: int) -> Config:
    """Return a model of the paper's kind: GELU, a feed-forward width of four times the hidden size."""
    model = {
        "num_layers": options.num_layers,
        "hidden_size": hidden_size,
        "num_attention_heads": hidden_size // 64,
        "ffn_hidden_size": hidden_size * 4,
        "architecture": "gpt_neox",
        "max_position_embeddings": options.row_length,
        "untie_embeddings_and_output_weights": True,
        "vocab_size": vocab_size,
    }
    return config_from_dict({"model": model, "training": {"recompute": "full"}})


def measure(options: argparse.Namespace, hidden_size: int, batch: ItemBatch, vocab_size: int) -> Measured:
    """Time both passes in turns."""
    config = make_config(options, hidden_size, vocab_size)
    platform = select_platform(options.device)
    initialize_distributed(platform)
    initialize_model_parallel(config.parallel, config.training.seed)
    chunks = build_model_chunks(config, platform.device)
    taps = Taps(chunks)
    loss = AlignmentLoss(taps, tap_weights("all", options.num_layers, tied=False), TEMPERATURE, 2**29)
    groups, excluded = torch.from_numpy(batch.group_ids), torch.from_numpy(batch.excluded_pairs)
    targets = ContrastiveTargets.build(groups, excluded, batch.start, batch.stop, platform.device)
    words = to_microbatch(batch.packed, batch.stop - batch.start, platform.device, targets)
    kinds: dict[str, Callable[[], None]] = {
        "forward": partial(run_forward, chunks[0], words),
        "baseline": partial(run_pass, chunks[0], words, None),
        "aligned": partial(run_pass, chunks[0], words, loss),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    run_forward(chunks[0], words)  # warms up threads and memory
    for _ in track(range(options.repeats), f"{options.num_layers} layers x {hidden_size}", console=_console()):
        for name, run in kinds.items():
            chunks[0].zero_grad(set_to_none=True)
            platform.synchronize()
            start = time.perf_counter()
            run()
            platform.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return Measured(hidden_size, *(median(seconds[name]) for name in ("forward", "baseline", "aligned")))


@torch.no_grad()
def run_forward(chunk: torch.nn.Module, words: ItemMicrobatch) -> None:
    """Run the forward pass alone."""
    run_items(chunk, words)


def run_pass(chunk: torch.nn.Module, words: ItemMicrobatch, loss: AlignmentLoss | None) -> None:
    """Run forward and backward over the words; without losses the same work is done for a gradient of zero."""
    if loss is None:
        hidden = run_items(chunk, words)
    else:
        with loss.attached(words, torch.ones(())):
            hidden = run_items(chunk, words)
    torch.autograd.backward((hidden * 0.0).sum())


def _console() -> Console:
    return Console(stderr=True)


def report(measured: Sequence[Measured], padding_waste: float, options: argparse.Namespace) -> dict[str, Any]:
    """Show a table; return what the last line says."""
    table = Table("hidden size", "passes, s", "losses, s", "overhead", title="Cost of the alignment losses")
    for row in measured:
        table.add_row(
            str(row.hidden_size),
            f"{row.pass_seconds:.2f}",
            f"{row.aligned_seconds - row.baseline_seconds:.2f}",
            f"{100 * row.loss_overhead:.1f} %",
        )
    _console().print(table)
    return {
        "loss_overhead": round(measured[-1].loss_overhead, 4),
        "padding_waste": round(padding_waste, 4),
        "overhead_by_hidden_size": {row.hidden_size: round(row.loss_overhead, 4) for row in measured},
        "num_layers": options.num_layers,
        "num_words": options.num_words,
        "repeats": options.repeats,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return its exit code."""
    options = parse_arguments(argv)
    batch, vocab_size = make_batch(options)
    computed = batch.packed.token_ids.size
    padding_waste = 1 - batch.num_tokens / computed
    print(
        f"{batch.num_items:,} words, {batch.num_tokens:,} subwords in {computed:,} positions: "
        f"{100 * padding_waste:.1f} % padding",
        file=sys.stderr,
    )
    measured = [measure(options, hidden_size, batch, vocab_size) for hidden_size in options.hidden_size]
    print(json.dumps(report(measured, padding_waste, options)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
