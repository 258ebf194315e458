"""Print what a training step keeps on a GPU, counted on fake tensors and estimated by formulas, for several layouts.

No GPU is needed, only a C++ compiler. tools/plan.py uses the formulas.

python -m benchmarks.step_memory
"""

import argparse
from typing import Any

from megatron_prealign.config import config_from_dict
from megatron_prealign.config.counts import step_memory
from megatron_prealign.config.presets import PRESETS
from megatron_prealign.testing.fake_gpu import FakeRun, Values, run_fake_steps

_GIB = 2**30
TP2_PP2 = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}
INTERLEAVED = {**TP2_PP2, "virtual_pipeline_model_parallel_size": 2, "use_distributed_optimizer": True}
TP8 = {"tensor_model_parallel_size": 8, "sequence_parallel": True, "use_distributed_optimizer": True}


def values(
    preset: str,
    world_size: int,
    micro_batch_size: int,
    seq_length: int,
    *,
    parallel: dict[str, Any] | None = None,
    num_microbatches: int = 4,
    words: int = 0,
    num_layers: int | None = None,
    **training: Any,
) -> Values:
    """Return the configuration of a run.

    With `words` it is stage 1 with so many entries of the lexicon a step; `num_layers` replaces the preset's.
    """
    parallel = parallel or {}
    sizes = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
    replicas = world_size
    for size in sizes:
        replicas //= parallel.get(size, 1)
    return {
        "model": {
            "preset": preset,
            "vocab_size": PRESETS[preset].vocab_size,
            "transformer_impl": "local",
            "max_position_embeddings": max(seq_length, 1024),
            **({} if num_layers is None else {"num_layers": num_layers}),
        },
        "data": {"tokenizer_path": "tokenizer", "blend": [{"prefix": "data"}], "seq_length": seq_length},
        "parallel": parallel,
        "alignment": {"lexicon_paths": ["lexicon"], "word_batch_size": words} if words else {},
        "training": {
            "stage": "align_init" if words else "pretrain",
            "run_path": "run",
            "device": "cuda",
            "precision": "bf16",
            "micro_batch_size": micro_batch_size,
            "global_batch_size": micro_batch_size * replicas * num_microbatches,
            "eval_interval": 0,
            **training,
        },
        "logging": {"log_interval": 2},
    }


def _run(*sizes: Any, rank: int = 0, **options: Any) -> FakeRun:
    return FakeRun(values(*sizes, **options), world_size=sizes[1], rank=rank)


RUNS = {
    "150m, one GPU, 8 x 1,024": _run("150m", 1, 8, 1024, num_microbatches=2),
    "1b TP2 PP2 DP2, 4 x 1,024": _run("1b", 8, 4, 1024, parallel=TP2_PP2),
    "the same, last stage": _run("1b", 8, 4, 1024, parallel=TP2_PP2, rank=4),
    "the same, interleaved, sharded optimizer": _run("1b", 8, 4, 1024, parallel=INTERLEAVED),
    "llama-1b DP8, 1 x 4,096": _run("llama-1b", 8, 1, 4096, num_microbatches=2),
    "the same, and 1,024 words": _run("llama-1b", 8, 1, 4096, words=1024, num_microbatches=2),
    "llama-8b TP8 DP8, sharded optimizer, 1 x 8,192": _run("llama-8b", 64, 1, 8192, parallel=TP8, num_microbatches=2),
    "the same, recomputing the MLPs": _run("llama-8b", 64, 1, 8192, parallel=TP8, num_microbatches=2, recompute="mlp"),
    "the same, recomputing all layers": _run(
        "llama-8b", 64, 1, 8192, parallel=TP8, num_microbatches=2, recompute="full"
    ),
}
"""By what the table calls it; rank 0 unless it says otherwise."""


def estimate(run: FakeRun) -> int:
    """Return the bytes that `config.counts` estimates."""
    stages = step_memory(config_from_dict(run.values), run.world_size)
    return stages[run.rank * len(stages) // run.world_size].total


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("| GiB | weights | gradients | optimizer | step | peak | estimate |\n|---|---|---|---|---|---|---|")
    for (name, run), report in zip(RUNS.items(), run_fake_steps(list(RUNS.values())), strict=True):
        parts = [report.memory[part] for part in ("weights", "gradients", "optimizer", "step", "peak")]
        print(f"| {name} | {' | '.join(f'{size / _GIB:.2f}' for size in [*parts, estimate(run)])} |")


if __name__ == "__main__":
    main()
