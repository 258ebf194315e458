"""Export of a 1.3-billion-parameter checkpoint against a plain copy of the same bytes: speed and peak memory.

python benchmarks/convert.py

The weights are random, bfloat16, and in the page cache. The export is the one of `convert_checkpoint.py to-hf` without
its self-check, from open checkpoint to synced folder; the copy is shutil.copyfile and fsync. Each runs in a process of
its own, alternating; before each, memory is got back from the hypervisor, which takes what lies free and else would be
what is timed. Last line, one JSON object: `vs_copy` (median over the rounds of copy seconds / export seconds),
`peak_gib` (largest resident memory of an export, imports included), and the seconds and bytes behind them.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from megatron_prealign.checkpoint.folder import CONFIG, STATE, TOKENIZER
from megatron_prealign.checkpoint.huggingface import export_checkpoint
from megatron_prealign.checkpoint.huggingface.mapping import megatron_shapes
from megatron_prealign.checkpoint.tensors import write_tensors
from megatron_prealign.config import Config, ModelConfig, count_parameters, dump_config
from megatron_prealign.files import sync

MODEL = ModelConfig(
    num_layers=24,
    hidden_size=2048,
    num_attention_heads=16,
    ffn_hidden_size=5632,
    max_position_embeddings=2048,
    vocab_size=32_000,
    untie_embeddings_and_output_weights=True,
)

_WARM_BYTES = 4 * count_parameters(MODEL, int(MODEL.vocab_size or 0))
"""Twice the model's bytes: the page cache takes them once."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="exports and copies")
    parser.add_argument("--folder", type=Path, help="where to work, with 9 GB free; left out = the temporary folder")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        result = measure(Path(scratch), options.rounds)
    print(json.dumps(result))
    return 0


def measure(scratch: Path, rounds: int) -> dict[str, Any]:
    """Return what the module's docstring promises."""
    checkpoint, exported, copied = scratch / "checkpoint", scratch / "exported", scratch / "copied"
    make_checkpoint(checkpoint)
    exports, copies, peaks = [], [], []
    for _ in range(rounds):
        seconds, peak = in_new_process(export, checkpoint, exported)
        num_bytes = sum(path.stat().st_size for path in exported.iterdir())
        exports.append(seconds)
        peaks.append(peak)
        copies.append(in_new_process(copy, exported, copied)[0])
        shutil.rmtree(exported)
        shutil.rmtree(copied)
        print(f"export {exports[-1]:.2f} s, copy {copies[-1]:.2f} s, peak {peak / 2**30:.2f} GiB", flush=True)
    return {
        "vs_copy": round(statistics.median(there / here for there, here in zip(copies, exports, strict=True)), 3),
        "peak_gib": round(max(peaks) / 2**30, 2),
        "parameters": count_parameters(MODEL, int(MODEL.vocab_size or 0)),
        "bytes": num_bytes,
        "export_seconds": exports,
        "copy_seconds": copies,
    }


def make_checkpoint(folder: Path) -> None:
    """Write a checkpoint of random weights with a tokenizer of bytes."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    (folder / TOKENIZER).mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / TOKENIZER / "tokenizer.json"))
    (folder / CONFIG).write_text(dump_config(Config(model=MODEL)), encoding="utf-8")
    (folder / STATE).write_text('{"step": 0}\n', encoding="utf-8")
    shapes = megatron_shapes(MODEL)
    write_tensors(folder, shapes, MODEL.num_layers, torch.bfloat16, lambda name: torch.randn(shapes[name]).bfloat16())


def export(checkpoint: Path, output: Path) -> None:
    """Export as the command line does, without the self-check."""
    export_checkpoint(checkpoint, output, dtype="bfloat16", verify=False)


def copy(source: Path, target: Path) -> None:
    """Copy the files of a folder and bring them to the disk."""
    target.mkdir()
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
        sync(target / path.name)
    sync(target)


def in_new_process(function: Any, *paths: Path) -> tuple[float, int]:
    """Return the seconds that a call takes, imports apart, and the peak resident memory of its process in bytes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result: tuple[float, int] = pool.apply(_measured, (function, *paths))
    return result


def _measured(function: Any, *paths: Path) -> tuple[float, int]:
    # In another process: resident memory is measured here.
    subprocess.run([sys.executable, "-c", f"b'1' * {_WARM_BYTES}"], check=True)
    start = time.perf_counter()
    function(*paths)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    raise SystemExit(main())
