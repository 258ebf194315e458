"""Products of fp32 matrices through oneDNN, against torch's own way through MKL.

    python -m benchmarks.matrix_products    # half a minute on two cores

Of the shapes that training the model of benchmarks/step.py multiplies, each forward, for the gradient of the input and
for that of the weight; both libraries take turns, and medians are compared. The last line is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from megatron_prealign.platform.matrix_products import prefers_onednn, products_through_onednn

NUM_TOKENS = 2048
LAYERS = {
    "attention's input": (384, 1152),
    "attention's output": (384, 384),
    "MLP's input": (384, 2048),
    "MLP's output": (1024, 384),
    "vocabulary": (384, 32000),
}
_CONSOLE = Console(stderr=True)


def seconds_of(product: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the median seconds of a product through MKL and through oneDNN, which take turns."""

    def timed() -> float:
        started = time.perf_counter()
        product()
        return time.perf_counter() - started

    mkl, onednn = [], []
    for _ in range(repeats + 1):
        mkl.append(timed())
        with products_through_onednn():
            onednn.append(timed())
    return median(mkl[1:]), median(onednn[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11, help="timed turns of each library, after one that warms up")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of both")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    table = Table("layer", "product", "MKL, GFLOP/s", "oneDNN, GFLOP/s", "times as fast")
    ratios: dict[str, float] = {}
    for layer, (num_inputs, num_outputs) in LAYERS.items():
        inputs, weight = torch.randn(NUM_TOKENS, num_inputs), torch.randn(num_outputs, num_inputs)
        gradient = torch.randn(NUM_TOKENS, num_outputs)
        gigaflops = 2 * NUM_TOKENS * num_inputs * num_outputs / 1e9
        products = {
            "forward": partial(torch.mm, inputs, weight.t()),
            "gradient of the input": partial(torch.mm, gradient, weight),
            "gradient of the weight": partial(torch.mm, gradient.t(), inputs),
        }
        for name, product in products.items():
            mkl, onednn = seconds_of(product, options.repeats)
            ratios[f"{layer}, {name}"] = round(mkl / onednn, 3)
            table.add_row(layer, name, f"{gigaflops / mkl:.0f}", f"{gigaflops / onednn:.0f}", f"{mkl / onednn:.2f}")
    _CONSOLE.print(table)
    facts = {
        "is_used_here": prefers_onednn(),
        "repeats": options.repeats,
        "threads": options.threads,
        "torch": torch.__version__,
        "libraries": [name.strip(" -") for name in torch.__config__.show().splitlines() if "(R)" in name],
    }
    print(json.dumps({"times_as_fast": ratios, "median": median(ratios.values()), **facts}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
