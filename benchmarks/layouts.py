"""How far fp32 lets the layouts of a run differ, beside what one rounding error alone makes of it.

    python -m benchmarks.layouts                  # the demo's learning rate; about eleven minutes on two cores
    python -m benchmarks.layouts --lr 3e-4        # a tenth of it
    python -m benchmarks.layouts --float64        # what is left without rounding

The demo's model (4 layers x 128) trains on Python's own reference, in one process and at several layouts, over gloo on
the CPU. Two layouts add the same numbers up in another order. The control is the single process again, with one weight
moved by one unit in its last place before the first step: what training makes of that, it makes of any rounding.
Differences are relative to the single process, the greatest over all steps; "from" is the first step in which the loss
or the gradient norm differs by more than 1e-5. The last line is one JSON object.
"""

import argparse
import contextlib
import json
import math
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.step import TOKENIZER, bake_text
from megatron_prealign.platform import select_platform
from megatron_prealign.platform.matrix_products import cpu_vendor
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import Float64, Values, make_trainer
from megatron_prealign.text.tokenizer import load_tokenizer

DEMO = Path(__file__).resolve().parents[1] / "examples" / "paper" / "english_clone" / "model.yaml"
PACKAGES = ("torch", "megatron-core", "mistral-common")
SINGLE, CONTROL = "one process", "one process, a weight moved by its last place"
TENSOR, PIPELINE = {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    SINGLE: (1, {}),
    CONTROL: (1, {}),
    "DP2": (2, {}),
    "DP2, distributed optimizer": (2, {"use_distributed_optimizer": True}),
    "TP2": (2, TENSOR),
    "PP2": (2, PIPELINE),
    "TP2 x PP2": (4, {**TENSOR, **PIPELINE}),
}
BOUND = 1e-5
Curve = list[tuple[float, float]]
"""Loss, and gradient norm before clipping, of each step."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps (default: 120)")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate (default: 0.003, the demo's)")
    parser.add_argument("--float64", action="store_true", help="compute in float64 instead of fp32")
    return parser.parse_args(argv)


def make_values(folder: Path, run: str, parallel: dict[str, Any], lr: float, steps: int) -> Values:
    """Return the configuration of a run; 40 steps of warm-up, then a cosine."""
    demo = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    return {
        "model": {**demo["model"], "vocab_size": load_tokenizer(TOKENIZER).vocab_size},
        "data": {
            "tokenizer_path": str(TOKENIZER),
            "blend": [{"prefix": str(folder / "english_text_document")}],
            "seq_length": 128,
            "split": "1,0,0",
        },
        "optimizer": {"lr": lr, "min_lr": lr / 10},
        "schedule": {"lr_warmup_steps": 40},
        "training": {
            "run_path": str(folder / run),
            "train_steps": max(steps, 120),
            "micro_batch_size": 2,
            "global_batch_size": 4,
            "eval_interval": 0,
            "device": "cpu",
        },
        "parallel": parallel,
        "logging": {"tensorboard": False},
    }


def train(values: Values, steps: int, is_double: bool, moves: bool) -> Curve:
    """Train on this rank; `moves` a weight by one unit in its last place first."""
    select_platform("cpu").activate()  # its redirections of devices lie below those of types
    with Float64() if is_double else contextlib.nullcontext():
        trainer = make_trainer(values)
        if moves:
            named = trainer.chunks[0].named_parameters()
            weight = next(value for name, value in named if name.endswith("linear_fc1.weight")).data.view(-1)
            weight[0] = torch.nextafter(weight[0], torch.full_like(weight[0], math.inf))
        curve = []
        for _ in range(steps):
            trainer.compute_gradients()
            norm = trainer.update()
            curve.append((trainer.stage.take_metrics()["lm_loss"], norm))
    return curve


def compare(curve: Curve, single: Curve) -> dict[str, float | int | None]:
    """Return the greatest relative differences of two curves, and the first step beyond the bound."""
    apart = [
        [abs(value / other - 1) for value, other in zip(*pair, strict=True)] for pair in zip(curve, single, strict=True)
    ]
    beyond = [step for step, differences in enumerate(apart, start=1) if max(differences) > BOUND]
    losses, norms = zip(*apart, strict=True)
    return {"loss": max(losses), "norm": max(norms), "from": beyond[0] if beyond else None}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = parse_arguments(argv)
    curves: dict[str, Curve] = {}
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="prealign-layouts-") as name:
        folder = Path(name)
        bake_text(folder)
        for number, (layout, (world_size, parallel)) in enumerate(track(LAYOUTS.items(), console=console)):
            values = make_values(folder, str(number), parallel, options.lr, options.steps)
            arguments = (values, options.steps, options.float64, layout == CONTROL)
            curves[layout] = run_distributed(train, world_size, *arguments, timeout_seconds=3600)[0]
    rows = {layout: compare(curve, curves[SINGLE]) for layout, curve in curves.items() if layout != SINGLE}
    table = Table("layout", "loss", "gradient norm", f"beyond {BOUND:g} from")
    for layout, row in rows.items():
        table.add_row(layout, f"{row['loss']:.1e}", f"{row['norm']:.1e}", str(row["from"] or "never"))
    Console().print(table)
    facts = {
        "steps": options.steps,
        "lr": options.lr,
        "type": "float64" if options.float64 else "fp32",
        "cpu": [cpu_vendor(), torch.backends.cpu.get_cpu_capability()],
        "versions": {name: version(name) for name in PACKAGES},
    }
    print(json.dumps({"differences": rows, **facts}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
