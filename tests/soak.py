"""A long run of the demo's model with kills all along, watched for what grows: memory, open files, files left over.

    make demo                                          # once: the data
    python -m tests.soak --minutes 120 --kill-minutes 5

A random rank is killed with SIGKILL again and again, and torchrun starts all of them anew. Samples are written to
<output>/samples.jsonl; the last line printed is one JSON object, and the exit code 1 where something grew. What torch
keeps in the folder for temporary files is its own: torchrun's notes on each start, the cache of its compiler.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.launching import ROOT

KEPT = {"cache", "checkpoints", "config.yaml", "exit.json", "metrics.discarded.jsonl", "metrics.jsonl"}
KEPT |= {"run.lock", "tensorboard"}
"""What a run leaves in its folder."""

OF_TORCH = ("torchelastic_", "torchinductor_")
"""How the names of what torch leaves in the folder for temporary files begin."""

MAX_MEMORY_GROWTH = 1.05
KEEP_LAST = 2


@dataclass(frozen=True)
class Sample:
    """What the ranks of one start hold at one time, summed over them, and torchrun beside them."""

    start: int
    seconds: float
    rank_bytes: int
    rank_files: int
    rank_children: int
    torchrun_bytes: int
    torchrun_files: int
    temporary_files: int


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Train for long, kill ranks, and watch what grows.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=120, help="length of the run")
    parser.add_argument("--kill-minutes", type=float, default=5, help="minutes between two kills")
    parser.add_argument("--sample-seconds", type=float, default=5, help="seconds between two samples")
    parser.add_argument("--ranks", type=int, default=2, help="data-parallel ranks")
    parser.add_argument("--data", type=Path, default=Path("runs/english_clone/data"), help="what make demo baked")
    parser.add_argument("--output", type=Path, default=Path("runs/soak"), help="folder that does not exist yet")
    parser.add_argument("--seed", type=int, default=0, help="which ranks are killed")
    return parser.parse_args(argv)


def start(arguments: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start the run under torchrun, with a folder of its own for temporary files."""
    blend = [
        {"prefix": str(arguments.data / "english_text_document"), "weight": 0.95, "language": "en"},
        {"prefix": str(arguments.data / "clone_text_document"), "weight": 0.05, "language": "clone"},
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(arguments.ranks)]
    command += ["--max-restarts", "1000000", "pretrain_prealign.py"]
    command += ["--training.run_path", str(arguments.output / "run")]
    for name in ("model", "joint"):
        command += ["--config", f"examples/paper/english_clone/{name}.yaml"]
    command += ["--data.tokenizer_path", str(arguments.data / "tokenizer"), "--data.blend", json.dumps(blend)]
    command += ["--training.train_steps", "50000", "--checkpoint.save_interval", "50"]
    command += ["--checkpoint.keep_last", str(KEEP_LAST)]
    temporary = arguments.output / "tmp"
    temporary.mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with (arguments.output / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)


def find_ranks(torchrun: psutil.Process) -> list[psutil.Process]:
    """Return the ranks that run now."""
    return [child for child in torchrun.children() if "pretrain_prealign.py" in " ".join(child.cmdline())]


def sample(torchrun: psutil.Process, started: float, start_number: int, temporary: Path) -> Sample:
    """Measure all processes."""
    ranks = find_ranks(torchrun)
    return Sample(
        start=start_number,
        seconds=round(time.monotonic() - started, 1),
        rank_bytes=sum(rank.memory_info().rss for rank in ranks),
        rank_files=sum(rank.num_fds() for rank in ranks),
        rank_children=sum(len(rank.children(recursive=True)) for rank in ranks),
        torchrun_bytes=torchrun.memory_info().rss,
        torchrun_files=torchrun.num_fds(),
        temporary_files=sum(1 for path in temporary.iterdir() if not path.name.startswith(OF_TORCH)),
    )


def watch(arguments: argparse.Namespace, process: subprocess.Popen[bytes]) -> Iterator[Sample]:
    """Yield samples, and kill a rank after each interval, until the time is over."""
    torchrun, draw = psutil.Process(process.pid), random.Random(arguments.seed)
    started = time.monotonic()
    number = 0
    next_kill = 60 * arguments.kill_minutes
    while (seconds := time.monotonic() - started) < 60 * arguments.minutes:
        time.sleep(arguments.sample_seconds)
        if process.poll() is not None:
            raise SystemExit(f"error: torchrun ended with {process.returncode}; see {arguments.output / 'log'}")
        try:
            yield sample(torchrun, started, number, arguments.output / "tmp")
            if seconds >= next_kill:
                draw.choice(find_ranks(torchrun)).send_signal(signal.SIGKILL)
                number, next_kill = number + 1, next_kill + 60 * arguments.kill_minutes
        except (psutil.NoSuchProcess, IndexError):
            continue  # between two starts


def growth(samples: list[Sample], name: str) -> float:
    """Return how the settled value of the last starts compares with that of the first: medians of second halves."""
    by_start: dict[int, list[Sample]] = {}
    for one in samples:
        by_start.setdefault(one.start, []).append(one)
    halves = [values[len(values) // 2 :] for values in by_start.values()]
    # A start that was killed while it was still loading has hardly a file open.
    most = max(one.rank_files for one in samples)
    loaded = [half for half in halves if statistics.median(one.rank_files for one in half) > most / 2]
    settled = [statistics.median(getattr(one, name) for one in half) for half in loaded or halves]
    count = max(len(settled) // 4, 1)
    return statistics.mean(settled[-count:]) / max(statistics.mean(settled[:count]), 1)


def growth_within(samples: list[Sample], name: str) -> float:
    """Return how the last quarter of the longest start compares with its second quarter."""
    starts = [one.start for one in samples]
    longest = max(set(starts), key=starts.count)
    values = [getattr(one, name) for one in samples if one.start == longest]
    quarter = max(len(values) // 4, 1)
    return statistics.median(values[-quarter:]) / max(statistics.median(values[quarter : 2 * quarter] or values), 1)


def left_over(arguments: argparse.Namespace) -> list[str]:
    """Return the files that nobody needs after the end."""
    run = arguments.output / "run"
    names = [path.name for path in run.iterdir() if path.name not in KEPT]
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    names += [name for name in checkpoints if name != "latest" and not name.startswith("step_")]
    names += [name for name in checkpoints if name.endswith(".tmp")] + checkpoints[1 + KEEP_LAST :]
    left = [path for path in (arguments.output / "tmp").iterdir() if not path.name.startswith(OF_TORCH)]
    return names + [str(path.relative_to(arguments.output)) for path in left]


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and say what grew."""
    arguments = parse_arguments(argv)
    if not (arguments.data / "english_text_document.bin").exists():
        print(f"error: {arguments.data} holds no data; run make demo, or name another folder", file=sys.stderr)
        return 2
    if arguments.output.exists():
        print(f"error: {arguments.output} exists; name another folder", file=sys.stderr)
        return 2
    process = start(arguments)
    samples: list[Sample] = []
    try:
        with (arguments.output / "samples.jsonl").open("w", encoding="utf-8") as stream:
            for one in watch(arguments, process):
                samples.append(one)
                stream.write(json.dumps(asdict(one)) + "\n")
                stream.flush()
    finally:
        process.terminate()
        process.wait()
    report = describe(arguments, samples)
    print(json.dumps(report))
    return int(bool(report["grew"]))


def describe(arguments: argparse.Namespace, samples: list[Sample]) -> dict[str, Any]:
    """Return the growth of everything, and the names of what grew."""
    names = [name for name in asdict(samples[0]) if name not in ("start", "seconds")]
    ratios = {name: round(growth(samples, name), 4) for name in names}
    ratios |= {f"{name}_within_a_start": round(growth_within(samples, name), 4) for name in names}
    remaining = left_over(arguments)
    limits = {name: MAX_MEMORY_GROWTH if "bytes" in name else 1.0 for name in ratios}
    grew = [name for name, ratio in ratios.items() if ratio > limits[name]]
    metrics = (arguments.output / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "kills": samples[-1].start,
        "steps": json.loads(metrics[-1])["step"],
        "growth": ratios,
        "left_over": remaining,
        "grew": [*grew, *(["left_over"] if remaining else [])],
    }


if __name__ == "__main__":
    raise SystemExit(main())
