"""What a save costs, and which share of it the checksums have.

    python -m benchmarks.checkpoint      # 100 million parameters, one process on the CPU; about a minute

The same checkpoint (weights and AdamW's state) is saved in turns with and without the hashes of its manifest, to the
disk and synced each time, and then verified; medians are compared. The share is what is lost with the hashes, of the
whole save. The last line is one JSON object.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch

from megatron_prealign.checkpoint import folder, manifest
from megatron_prealign.checkpoint.sharded import save_checkpoint
from megatron_prealign.config import config_from_dict
from megatron_prealign.config.counts import count_parameters
from megatron_prealign.model import build_model_chunks
from megatron_prealign.platform import initialize_distributed, initialize_model_parallel, select_platform
from megatron_prealign.training.optimizer import build_optimizer, wrap_data_parallel

TOKENIZER = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
MODEL = {
    "num_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "ffn_hidden_size": 2048,
    "vocab_size": 32_000,
}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="saves of each kind, after one that warms up")
    parser.add_argument(
        "--disk", type=Path, default=None, help="folder on the disk to measure; a temporary one if none"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    arguments = parse_arguments(argv)
    with tempfile.TemporaryDirectory(dir=arguments.disk) as name:
        print(json.dumps(measure(Path(name), arguments.repeats)))
    return 0


def measure(root: Path, repeats: int) -> dict[str, Any]:
    """Save in turns and return the medians."""
    config = config_from_dict({"model": MODEL, "training": {"run_path": str(root / "run"), "device": "cpu"}})
    platform = select_platform("cpu")
    initialize_distributed(platform)
    initialize_model_parallel(config.parallel, config.training.seed)
    chunks = wrap_data_parallel(build_model_chunks(config, platform.device), config)
    optimizer = build_optimizer(chunks, config)
    for parameter in chunks[0].parameters():
        parameter.main_grad = torch.zeros_like(parameter)  # type: ignore[attr-defined]
    optimizer.step()

    def save(step: int) -> float:
        start = time.perf_counter()
        save_checkpoint(config, chunks, optimizer, {"step": step}, TOKENIZER)
        return time.perf_counter() - start

    save(0)
    with_hashes, without, verified = [], [], []
    for turn in range(repeats):
        with_hashes.append(save(2 * turn + 1))
        checkpoint = folder.step_path(root / "run", 2 * turn + 1)
        start = time.perf_counter()
        assert not manifest.all_problems(checkpoint)
        verified.append(time.perf_counter() - start)
        with mock.patch.object(manifest, "file_hash", lambda path: ""):
            without.append(save(2 * turn + 2))
    return {
        "parameters": count_parameters(config.model, MODEL["vocab_size"]),
        "checkpoint_bytes": sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()),
        "save_seconds": round(median(with_hashes), 3),
        "save_seconds_without_hashes": round(median(without), 3),
        "hash_share": round(1 - median(without) / median(with_hashes), 3),
        "verify_seconds": round(median(verified), 3),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    raise SystemExit(main())
