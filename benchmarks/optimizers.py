"""Losses of AdamW and Muon over the same tokens: the demo's model and text, each optimizer at the same learning rates.

    python examples/paper/english_clone/run.py          # makes the text, once
    python -m benchmarks.optimizers                     # six runs on one core, minutes each
    python -m benchmarks.optimizers --steps 540         # as long as the demo's

The model of `make demo` (4 layers x 128) trains as in its joint training: English and 5 % English-Clone, a cosine
schedule to a tenth of the peak. All runs of a seed begin with the same weights and see the same batches. The validation
loss of English is measured at equal distances. In the last line, one JSON object, "tokens" is the share of the tokens
after which Muon at its best rate has the final loss of AdamW at its best: linear between two measurements.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from megatron_prealign.files import atomic_text_file
from megatron_prealign.platform.matrix_products import cpu_vendor
from megatron_prealign.reports.page import STYLES, draw_panels
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import Values, make_trainer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "paper" / "english_clone"
DATA = ROOT / "runs" / "english_clone" / "data"
NUM_MEASUREMENTS = 8
NAMES = {"adamw": "AdamW", "muon": "Muon"}
CLONE_SHARE = 0.05
Curve = list[tuple[int, dict[str, float]]]
"""Steps done, and the validation loss of each language after them."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the demo's data (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps (default: 120)")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.5e-3, 3e-3, 6e-3], help="peak learning rates")
    parser.add_argument("--seed", type=int, default=1, help="of weights and order of data (default: 1)")
    parser.add_argument("--output", type=Path, help="SVG file of the curves of the best rates")
    return parser.parse_args(argv)


def make_values(options: argparse.Namespace, folder: Path, name: str, rate: float) -> Values:
    """Return the configuration of a run."""
    values: dict[str, Any] = {}
    for file in ("model.yaml", "joint.yaml"):
        for section, fields in yaml.safe_load((EXAMPLE / file).read_text(encoding="utf-8")).items():
            values.setdefault(section, {}).update(fields)
    values["data"] |= {
        "tokenizer_path": str(options.data / "tokenizer"),
        "blend": [
            {"prefix": str(options.data / "english_text_document"), "weight": 1 - CLONE_SHARE, "language": "en"},
            {"prefix": str(options.data / "clone_text_document"), "weight": CLONE_SHARE, "language": "clone"},
        ],
    }
    values["optimizer"] = {"name": name, "lr": rate, "min_lr": rate / 10}
    values["training"] |= {"run_path": str(folder / f"{name}_{rate}"), "seed": options.seed}
    values["training"] |= {"train_steps": options.steps}
    values["logging"] = {"tensorboard": False}
    return values


def train(values: Values) -> tuple[Curve, float]:
    """Train on this rank; return the losses and the seconds of a step, without validations."""
    torch.set_num_threads(1)
    trainer = make_trainer(values)
    assert trainer.validator is not None
    num_steps = trainer.config.training.train_steps
    curve: Curve = []
    seconds = 0.0
    for step in range(1, num_steps + 1):
        start = time.perf_counter()
        trainer.train_step()
        seconds += time.perf_counter() - start
        if step * NUM_MEASUREMENTS // num_steps > len(curve):
            curve.append((step, trainer.validator.run(trainer.chunks)["loss"]))
    return curve, seconds / num_steps


def crossing(curve: Curve, loss: float) -> float | None:
    """Return the steps after which the English loss is at most `loss`, linear between measurements; None if never."""
    before: tuple[int, float] | None = None
    for step, losses in curve:
        if losses["en"] <= loss:
            if before is None:
                return float(step)
            share = (before[1] - loss) / (before[1] - losses["en"])
            return before[0] + share * (step - before[0])
        before = step, losses["en"]
    return None


def draw(best: dict[str, tuple[float, Curve]], tokens_per_step: int, output: Path) -> None:
    """Write the curves of each optimizer's best rate."""

    def panel(axes: "Axes", _: str) -> None:
        for style, (name, (rate, curve)) in zip(STYLES, best.items(), strict=False):
            tokens = [step * tokens_per_step / 1e6 for step, _ in curve]
            measured = [losses["en"] for _, losses in curve]
            axes.plot(tokens, measured, label=f"{NAMES[name]}, learning rate {rate:g}", markersize=3, **style)
        axes.set_xlabel("million tokens")
        axes.set_ylabel("validation loss of English")

    svg = draw_panels([""], panel)
    with atomic_text_file(output, overwrite=True) as stream:
        stream.write(svg)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print and draw."""
    options = parse_arguments(argv)
    if not (options.data / "english_text_document.bin").is_file():
        print(f"error: {options.data} lacks the demo's text: make it with {EXAMPLE}/run.py", file=sys.stderr)
        return 2
    found: dict[tuple[str, float], tuple[Curve, float]] = {}
    table = Table("optimizer", "learning rate", "English", "clone", "seconds a step")
    with tempfile.TemporaryDirectory(prefix="prealign-optimizers-") as folder:
        for rate in options.rates:
            for name in NAMES:
                values = make_values(options, Path(folder), name, rate)
                curve, seconds = run_distributed(train, 1, values, timeout_seconds=7200)[0]
                found[name, rate] = curve, seconds
                last = curve[-1][1]
                table.add_row(NAMES[name], f"{rate:g}", f"{last['en']:.4f}", f"{last['clone']:.4f}", f"{seconds:.3f}")
                print(f"{name} {rate:g}: {last}, {seconds:.3f} s a step", file=sys.stderr, flush=True)
    best = {
        name: min(((rate, found[name, rate][0]) for rate in options.rates), key=lambda run: run[1][-1][1]["en"])
        for name in NAMES
    }
    reached = crossing(best["muon"][1], best["adamw"][1][-1][1]["en"])
    Console().print(table)
    tokens_per_step = values["training"]["global_batch_size"] * values["data"]["seq_length"]
    if options.output:
        draw(best, tokens_per_step, options.output)
    facts = {
        "tokens": None if reached is None else reached / options.steps,
        "best_rates": {name: rate for name, (rate, _) in best.items()},
        "steps": options.steps,
        "tokens_per_step": tokens_per_step,
        "seed": options.seed,
        "cpu": [cpu_vendor(), torch.backends.cpu.get_cpu_capability()],
        "versions": {name: version(name) for name in ("torch", "megatron-core")},
    }
    runs = [
        {"optimizer": name, "lr": rate, "seconds_per_step": seconds, "curve": curve}
        for (name, rate), (curve, seconds) in found.items()
    ]
    print(json.dumps({**facts, "runs": runs}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
